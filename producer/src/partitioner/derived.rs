//! Keys that are made for the choice: a record's own key and something behind it, put together on the stack.

use std::io::Write as _;

/// Calls `look` with `key`, a hyphen and the number.
pub(super) fn with_number<T>(key: &[u8], number: i64, look: impl FnOnce(&[u8]) -> T) -> T {
    /// Longer keys cost an allocation.
    const ON_STACK: usize = 192;
    /// A hyphen, and a number of 64 bits with its sign.
    const SUFFIX: usize = 24;
    let mut buffer = [0; ON_STACK + SUFFIX];
    if key.len() > ON_STACK {
        return look(&owned(key, number));
    }
    buffer[..key.len()].copy_from_slice(key);
    let mut rest = &mut buffer[key.len()..];
    if write!(rest, "-{number}").is_err() {
        return look(&owned(key, number));
    }
    let unused = rest.len();
    look(&buffer[..buffer.len() - unused])
}

/// `key`, a hyphen and the number.
pub(super) fn owned(key: &[u8], number: i64) -> Vec<u8> {
    [key, b"-", number.to_string().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_keys_are_put_together_alike() {
        assert_eq!(owned(b"US", 7), b"US-7");
        for length in [0, 1, 191, 192, 193, 5000] {
            let key = vec![b'k'; length];
            for number in [i64::MIN, -1, 0, 7, i64::MAX] {
                with_number(&key, number, |joined| assert_eq!(joined, owned(&key, number)));
            }
        }
    }
}
