//! The words of the command line, taken one after the other.

use std::collections::VecDeque;
use std::str::FromStr;

use crate::Result;

pub(crate) struct Arguments(VecDeque<String>);

impl Arguments {
    pub(crate) fn of_this_program() -> Self {
        Self(std::env::args().skip(1).collect())
    }

    pub(crate) fn next_word(&mut self) -> Option<String> {
        self.0.pop_front()
    }

    /// The word after a flag.
    pub(crate) fn value_of<T: FromStr>(&mut self, flag: &str) -> Result<T> {
        let word = self.next_word().ok_or_else(|| format!("{flag} needs a value"))?;
        word.parse().map_err(|_| format!("{flag} {word}: that is not a value for it"))
    }

    pub(crate) fn asks_for_help(&self) -> bool {
        self.0.front().is_some_and(|word| matches!(word.as_str(), "help" | "--help" | "-h"))
    }

    pub(crate) fn rest(self) -> impl Iterator<Item = String> {
        self.0.into_iter()
    }

    pub(crate) fn no_more(&mut self, help: &str) -> Result<()> {
        match self.next_word() {
            None => Ok(()),
            Some(word) => Err(self.unknown(&word, help)),
        }
    }

    pub(crate) fn unknown(&self, word: &str, help: &str) -> String {
        format!("{word} is not known here\n\n{help}")
    }
}
