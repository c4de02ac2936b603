//! The values of the records that the null broker hands out, for whoever writes the same ones to real Kafka.

/// A value of so many bytes, like JSON, that differs from record to record and compresses as such values do.
#[must_use]
pub fn value(number: u64, size: usize) -> Vec<u8> {
    let mut rest = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut text = format!(r#"{{"id":{number},"account":"{rest:016x}","amount":"#);
    while text.len() < size {
        rest ^= rest << 13;
        rest ^= rest >> 7;
        rest ^= rest << 17;
        text.push_str(&format!(r#"{},"currency":"EUR","#, rest % 100_000));
    }
    text.truncate(size);
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_and_differ() {
        assert!([0, 7, 100, 1024].into_iter().all(|size| value(3, size).len() == size));
        assert_ne!(value(1, 100), value(2, 100));
    }
}
