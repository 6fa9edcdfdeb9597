// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads the JSON documents that dpsr and cargo print; only what these tasks ask for.

use crate::Result;

/// A JSON value. Numbers are kept as `f64`, exact up to 2^53, far above any image size used here.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads one document; anything but white space after it is refused.
    pub fn parse(text: &str) -> Result<Self> {
        let mut reader = Reader { bytes: text.as_bytes(), at: 0 };
        let value = reader.value()?;
        reader.skip_space();
        if reader.at < reader.bytes.len() { reader.fail("the end") } else { Ok(value) }
    }

    /// The value of `key`, searched outermost first, so that a nested namesake never wins.
    pub fn find(&self, key: &str) -> Option<&Json> {
        let mut level = vec![self];
        while !level.is_empty() {
            let mut below = Vec::new();
            for value in level {
                match value {
                    Json::Object(members) => {
                        if let Some((_, found)) = members.iter().find(|(name, _)| name == key) {
                            return Some(found);
                        }
                        below.extend(members.iter().map(|(_, value)| value));
                    }
                    Json::List(values) => below.extend(values),
                    _ => {}
                }
            }
            level = below;
        }
        None
    }

    /// The text at `key`.
    pub fn text(&self, key: &str) -> Result<&str> {
        match self.find(key) {
            Some(Json::Text(text)) => Ok(text),
            other => Err(format!("`{key}` should be a text in dpsr's JSON, found {other:?}")),
        }
    }

    /// The whole, non-negative number at `key`.
    pub fn number(&self, key: &str) -> Result<u64> {
        match self.find(key) {
            Some(Json::Number(number)) if *number >= 0.0 && number.fract() == 0.0 => Ok(*number as u64),
            other => Err(format!("`{key}` should be a whole number in dpsr's JSON, found {other:?}")),
        }
    }

    /// The list at `key`.
    pub fn list(&self, key: &str) -> Result<&[Json]> {
        match self.find(key) {
            Some(Json::List(values)) => Ok(values),
            other => Err(format!("`{key}` should be a list in dpsr's JSON, found {other:?}")),
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn fail<T>(&self, expected: &str) -> Result<T> {
        Err(format!("not JSON: expected {expected} at byte {}", self.at))
    }

    fn skip_space(&mut self) {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        let found = self.bytes[self.at..].starts_with(token.as_bytes());
        if found {
            self.at += token.len();
        }
        found
    }

    fn value(&mut self) -> Result<Json> {
        self.skip_space();
        match self.bytes.get(self.at) {
            Some(b'{') => self.object(),
            Some(b'[') => self.list(),
            Some(b'"') => self.text().map(Json::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ if self.take("null") => Ok(Json::Null),
            _ if self.take("true") => Ok(Json::Bool(true)),
            _ if self.take("false") => Ok(Json::Bool(false)),
            _ => self.fail("a value"),
        }
    }

    fn object(&mut self) -> Result<Json> {
        let mut members = Vec::new();
        self.take("{");
        while !self.take("}") {
            if !members.is_empty() && !self.take(",") {
                return self.fail("`,` or `}`");
            }
            self.skip_space();
            let name = self.text()?;
            if !self.take(":") {
                return self.fail("`:`");
            }
            members.push((name, self.value()?));
        }
        Ok(Json::Object(members))
    }

    fn list(&mut self) -> Result<Json> {
        let mut values = Vec::new();
        self.take("[");
        while !self.take("]") {
            if !values.is_empty() && !self.take(",") {
                return self.fail("`,` or `]`");
            }
            values.push(self.value()?);
        }
        Ok(Json::List(values))
    }

    fn number(&mut self) -> Result<Json> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().take_while(|byte| b"+-.eE0123456789".contains(byte)).count();
        let text = String::from_utf8_lossy(&rest[..length]);
        let Ok(number) = text.parse() else { return self.fail("a number") };
        self.at += length;
        Ok(Json::Number(number))
    }

    fn text(&mut self) -> Result<String> {
        if !self.take("\"") {
            return self.fail("a text");
        }
        let mut found = Vec::new();
        loop {
            match self.bytes.get(self.at) {
                None => return self.fail("`\"`"),
                Some(b'"') => break,
                Some(b'\\') => {
                    self.at += 1;
                    self.escape(&mut found)?;
                }
                Some(byte) => found.push(*byte),
            }
            self.at += 1;
        }
        self.at += 1;
        String::from_utf8(found).or_else(|_| self.fail("UTF-8"))
    }

    /// One escape, `at` on the letter after the backslash and, when done, on its last character.
    fn escape(&mut self, found: &mut Vec<u8>) -> Result<()> {
        match self.bytes.get(self.at) {
            Some(byte @ (b'"' | b'\\' | b'/')) => found.push(*byte),
            Some(b'n') => found.push(b'\n'),
            Some(b't') => found.push(b'\t'),
            Some(b'r') => found.push(b'\r'),
            Some(b'b') => found.push(8),
            Some(b'f') => found.push(12),
            Some(b'u') => {
                let digits = self.bytes.get(self.at + 1..self.at + 5);
                let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
                let Some(code) = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()) else {
                    return self.fail("four hexadecimal digits");
                };
                // Half of a surrogate pair becomes U+FFFD: no field read here holds one.
                let letter = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                found.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                self.at += 4;
            }
            _ => return self.fail("an escape"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_document() {
        let text = r#" {"generation": 7, "mode":"digest", "seconds": 1.5e0,
            "volumes":[{"name":"a\"b\u0041\n","bytes_read":4096}], "bytes_read": 8192, "none": null} "#;
        let json = Json::parse(text).unwrap();
        assert_eq!(json.number("generation"), Ok(7));
        assert_eq!(json.text("mode"), Ok("digest"));
        assert_eq!(json.number("bytes_read"), Ok(8192), "the outer one, not the volume's");
        assert_eq!(json.text("name"), Ok("a\"bA\n"));
        assert_eq!(json.list("volumes").map(<[Json]>::len), Ok(1));
        assert_eq!(json.find("none"), Some(&Json::Null));
        assert!(json.number("seconds").is_err());
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in ["", "{", "[1 2]", "{\"a\" 1}", "{\"a\":1} x", "\"\\q\"", "\"\\u12\"", "tru", "-", "\"a"]
        {
            assert!(Json::parse(text).is_err(), "{text}");
        }
        assert_eq!(Json::parse("[]"), Ok(Json::List(Vec::new())));
        assert_eq!(Json::parse("{}"), Ok(Json::Object(Vec::new())));
    }
}
