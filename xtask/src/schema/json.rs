//! JSON as Kafka's message definitions are written: with `//` comments.

use crate::Result;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json {
    Object(Vec<(String, Self)>),
    Array(Vec<Self>),
    Text(String),
    /// A number, `true`, `false` or `null`, as it is written.
    Word(String),
}

impl Json {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut parser = Parser { rest: text };
        let value = parser.value()?;
        match parser.peek() {
            None => Ok(value),
            Some(c) => Err(format!("{c:?} follows the last value")),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<&str> {
        match self.get(key) {
            Some(Self::Text(text)) => Ok(text),
            _ => Err(format!("there is no text {key:?}")),
        }
    }

    pub(super) fn number(&self, key: &str) -> Result<i64> {
        match self.get(key) {
            Some(Self::Word(word)) => word.parse().map_err(|_| format!("{key:?} is {word}, not a number")),
            _ => Err(format!("there is no number {key:?}")),
        }
    }

    pub(super) fn array(&self) -> Result<&[Self]> {
        match self {
            Self::Array(values) => Ok(values),
            _ => Err("an array was expected".to_owned()),
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    /// The next character that is neither space nor comment.
    fn peek(&mut self) -> Option<char> {
        loop {
            self.rest = self.rest.trim_start();
            match self.rest.strip_prefix("//") {
                Some(comment) => self.rest = comment.split_once('\n').map_or("", |(_, rest)| rest),
                None => return self.rest.chars().next(),
            }
        }
    }

    fn skip(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.rest = &self.rest[wanted.len_utf8()..];
        }
        found
    }

    fn expect(&mut self, wanted: char) -> Result<()> {
        if self.skip(wanted) {
            return Ok(());
        }
        Err(format!("{wanted:?} was expected before {:?}", self.rest.chars().take(20).collect::<String>()))
    }

    fn value(&mut self) -> Result<Json> {
        match self.peek() {
            Some('{') => self
                .list('{', '}', |parser| {
                    let key = parser.string()?;
                    parser.expect(':')?;
                    Ok((key, parser.value()?))
                })
                .map(Json::Object),
            Some('[') => self.list('[', ']', Self::value).map(Json::Array),
            Some('"') => self.string().map(Json::Text),
            _ => {
                let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c));
                let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
                if word.is_empty() {
                    return Err("a value is missing".to_owned());
                }
                self.rest = rest;
                Ok(Json::Word(word.to_owned()))
            }
        }
    }

    fn list<T>(&mut self, open: char, close: char, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        self.expect(open)?;
        let mut items = Vec::new();
        if self.skip(close) {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if !self.skip(',') {
                break;
            }
        }
        self.expect(close)?;
        Ok(items)
    }

    fn string(&mut self) -> Result<String> {
        self.expect('"')?;
        let end = self.rest.find(['"', '\\']).ok_or("a string does not end")?;
        if self.rest[end..].starts_with('\\') {
            return Err("a string has an escape, which no definition had so far".to_owned());
        }
        let text = self.rest[..end].to_owned();
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_skipped_but_not_inside_of_strings() {
        let json =
            Json::parse("// one\n{ \"a\": [1, true, {}], // two\n \"b\": \"http://x\", \"c\": [] } // three").unwrap();
        assert_eq!(json.text("b"), Ok("http://x"));
        assert_eq!(json.get("a").unwrap().array().unwrap().len(), 3);
        assert_eq!(json.get("c").unwrap().array(), Ok(&[][..]));
    }

    #[test]
    fn what_is_not_json_is_an_error() {
        for text in ["", "{", "{ \"a\" }", "[1 2]", "\"a", "{} x", "\"a\\n\""] {
            assert!(Json::parse(text).is_err(), "{text}");
        }
    }
}
