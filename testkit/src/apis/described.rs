//! What a request says of itself, in memory that grows with its bytes and no faster: a name that stands once in a request for a hundred
//! thousand partitions is kept once, and a digest ends somewhere.

use std::sync::Arc;

/// A topic's name and a partition's index; the partitions of a topic share its name.
pub(crate) type Touched = (Arc<str>, i32);

/// These partitions of a topic.
pub(crate) fn touches<I: IntoIterator<Item = i32>>(
    topic: &str,
    partitions: I,
) -> impl Iterator<Item = Touched> + use<I> {
    let topic: Arc<str> = topic.into();
    partitions.into_iter().map(move |partition| (Arc::clone(&topic), partition))
}

/// Whole topics: partition −1 of each.
pub(crate) fn whole<'a>(topics: impl IntoIterator<Item = &'a str>) -> Vec<Touched> {
    topics.into_iter().map(|topic| (topic.into(), -1)).collect()
}

/// A list in a digest takes no more words after so many bytes: the log keeps it.
const ENOUGH: usize = 4 << 10;

/// These words with a separator between them, as far as they have room in a digest.
pub(crate) fn listed(separator: &str, words: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let mut text = String::new();
    for (index, word) in words.into_iter().enumerate() {
        if index > 0 {
            text.push_str(separator);
        }
        if text.len() > ENOUGH {
            text.push('…');
            break;
        }
        text.push_str(word.as_ref());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_share_the_name_of_their_topic() {
        let all: Vec<Touched> = touches("orders", [3, 4]).collect();
        assert_eq!((&*all[0].0, all[0].1, all[1].1), ("orders", 3, 4));
        assert!(Arc::ptr_eq(&all[0].0, &all[1].0));
    }

    #[test]
    fn a_list_that_is_too_long_ends_with_a_word_and_dots() {
        assert_eq!(listed(",", ["a", "", "b"]), "a,,b");
        assert_eq!(listed(" ", [] as [&str; 0]), "");
        let long = listed(" ", std::iter::repeat_n("abc", 1_000_000));
        assert!(long.len() < ENOUGH + 16 && long.ends_with(" abc …"), "{}", long.len());
    }
}
