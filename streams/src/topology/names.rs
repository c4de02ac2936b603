//! Kafka's and Java's rules for names, and the order in which Java's hash sets iterate (its descriptions show it).

/// Java's `Named`: at most 249 of `[a-zA-Z0-9._-]`, which are also a topic's.
pub(crate) fn check(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("is empty");
    }
    if name == "." || name == ".." {
        return Err("is a path");
    }
    if name.len() > 249 {
        return Err("is longer than 249 characters");
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
        return Err("holds something else than letters, digits, '.', '_' and '-'");
    }
    Ok(())
}

/// The order in which a Java `HashSet` iterates over strings that were added in this order.
pub(crate) fn java_hash_order<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let names: Vec<&str> = names.into_iter().collect();
    let mut buckets = 16_usize;
    while names.len() > buckets / 4 * 3 {
        buckets *= 2;
    }
    let mut ordered: Vec<(usize, &str)> = names.into_iter().map(|name| (bucket(name, buckets), name)).collect();
    // Stable: within a bucket, the order of insertion.
    ordered.sort_by_key(|(bucket, _)| *bucket);
    ordered.into_iter().map(|(_, name)| name).collect()
}

fn bucket(name: &str, buckets: usize) -> usize {
    let hash = name.encode_utf16().fold(0_u32, |hash, unit| hash.wrapping_mul(31).wrapping_add(u32::from(unit)));
    (hash ^ (hash >> 16)) as usize & (buckets - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_javas() {
        assert!(check("KSTREAM-SOURCE-0000000000").is_ok());
        assert!(check("a.b_c-9").is_ok());
        for bad in ["", ".", "..", "a b", "é", &"a".repeat(250)] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sets_iterate_as_in_java() {
        // Printed by Kafka Streams 4.3.0 for `stream([orders, payments, alpha, zz, b-topic])`.
        let names = ["orders", "payments", "alpha", "zz", "b-topic"];
        assert_eq!(java_hash_order(names), ["zz", "payments", "alpha", "b-topic", "orders"]);
    }
}
