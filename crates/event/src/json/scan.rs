//! A JSON scanner that borrows: it checks RFC 8259 to the letter and gives slices of its input.
//!
//! Why not the usual parser: an event's `data` must leave as the bytes that came, so what is wanted of it is
//! not a tree but the certainty that it is JSON; and attribute values are short texts that need no copy. The
//! scanner walks the text once, eight bytes at a time inside strings, without recursion and without allocating
//! (but for texts with escapes). Nesting is bounded by [`DEPTH_MAX`].
//!
//! Whether `\u` escapes pair up to characters is checked where a text is read ([`Raw::text`]), not inside data
//! that is passed on: RFC 8259 section 8.2 lets such strings stand, and another reader may want them.

use std::borrow::Cow;

use crate::error::Error;

/// The deepest nesting of arrays and objects in data. Leaves room for the envelope and a batch within the 128
/// levels at which widely used readers stop.
pub(crate) const DEPTH_MAX: u32 = 120;

/// Walks one text.
#[derive(Clone, Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

/// A value's beginning, or all of it where it has no parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    Null,
    Boolean(bool),
    /// The number as written.
    Number(&'a str),
    String(Raw<'a>),
    Array,
    Object,
}

/// A string between its quotes, as written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Raw<'a> {
    text: &'a str,
    escaped: bool,
    at: usize,
}

/// What is wrong and where.
type Fault = (usize, &'static str);

#[cold]
fn error((at, what): Fault) -> Error {
    Error::malformed(format!("not valid JSON: {what}")).at_offset(at)
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The next byte that is no white space, not consumed.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        self.at = space(self.text.as_bytes(), self.at);
        self.text.as_bytes().get(self.at).copied()
    }

    /// Consumes `byte` if it is the next one.
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Consumes `byte`, which must be the next one.
    pub(crate) fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Error> {
        if self.take(byte) { Ok(()) } else { Err(error((self.at, what))) }
    }

    /// Nothing but white space may follow.
    pub(crate) fn end(&mut self) -> Result<(), Error> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(error((self.at, "expected nothing after the value"))),
        }
    }

    /// The name of the next member and the colon after it.
    pub(crate) fn name(&mut self) -> Result<Raw<'a>, Error> {
        self.expect(b'"', "expected a member's name in double quotes")?;
        let name = self.string().map_err(error)?;
        self.expect(b':', "expected a colon after the member's name")?;
        Ok(name)
    }

    /// The next value; arrays and objects are left at their opening bracket.
    pub(crate) fn token(&mut self) -> Result<Token<'a>, Error> {
        let start = {
            self.peek();
            self.at
        };
        match self.text.as_bytes().get(start) {
            Some(b'"') => {
                self.at += 1;
                self.string().map(Token::String).map_err(error)
            }
            Some(b'{') => Ok(Token::Object),
            Some(b'[') => Ok(Token::Array),
            _ => {
                self.at = scalar(self.text.as_bytes(), start).map_err(error)?;
                Ok(match &self.text[start..self.at] {
                    "null" => Token::Null,
                    "true" => Token::Boolean(true),
                    "false" => Token::Boolean(false),
                    number => Token::Number(number),
                })
            }
        }
    }

    /// Checks the next value whole and gives it as written.
    pub(crate) fn raw(&mut self) -> Result<&'a str, Error> {
        self.peek();
        let start = self.at;
        self.at = value(self.text.as_bytes(), start).map_err(error)?;
        Ok(&self.text[start..self.at])
    }

    /// The rest of a string whose opening quote is consumed.
    fn string(&mut self) -> Result<Raw<'a>, Fault> {
        let start = self.at;
        let (end, escaped) = string(self.text.as_bytes(), start)?;
        self.at = end;
        Ok(Raw { text: &self.text[start..end - 1], escaped, at: start })
    }
}

impl<'a> Raw<'a> {
    /// The text with its escapes undone. An unpaired surrogate is an error: it stands for no character.
    pub(crate) fn text(self) -> Result<Cow<'a, str>, Error> {
        if self.escaped {
            self.unescape().map(Cow::Owned).map_err(error)
        } else {
            Ok(Cow::Borrowed(self.text))
        }
    }

    fn unescape(self) -> Result<String, Fault> {
        let mut out = String::with_capacity(self.text.len());
        let mut rest = self.text;
        while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
            out.push_str(&rest[..at]);
            let offset = self.at + (self.text.len() - rest.len()) + at;
            let (char, len) = match rest.as_bytes()[at + 1] {
                b'u' => unicode(&rest[at..]).ok_or((offset, "an escaped surrogate stands alone"))?,
                b'b' => ('\u{8}', 2),
                b'f' => ('\u{c}', 2),
                b'n' => ('\n', 2),
                b'r' => ('\r', 2),
                b't' => ('\t', 2),
                itself => (char::from(itself), 2),
            };
            out.push(char);
            rest = &rest[at + len..];
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// The character that `\uXXXX` or a pair of them says, and how many bytes say it.
fn unicode(text: &str) -> Option<(char, usize)> {
    let unit = |text: &str| u32::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok();
    let high = unit(text)?;
    if let Some(char) = char::from_u32(high) {
        return Some((char, 6));
    }
    let low = unit(text.get(6..)?)?;
    if !(0xd800..0xdc00).contains(&high) || !(0xdc00..0xe000).contains(&low) {
        return None;
    }
    Some((char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))?, 12))
}

/// Whether `bytes` are one JSON value, with nothing before or after it, nested no deeper than [`DEPTH_MAX`].
/// The caller knows that they are UTF-8.
pub(crate) fn is_value(bytes: &[u8]) -> bool {
    value(bytes, 0) == Ok(bytes.len())
}

/// The first byte at or after `at` that a JSON string cannot hold as it is: a quote, a backslash, a control
/// character. The length of `bytes` if there is none.
pub(crate) fn special(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    // Eight bytes at once. Each term sets the high bit of every byte that matches; a borrow may set further
    // ones, but only above a match, and the lowest is all that is asked for.
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ (ONES * u64::from(b'"'));
        let backslash = word ^ (ONES * u64::from(b'\\'));
        let found = (quote.wrapping_sub(ONES) & !quote
            | backslash.wrapping_sub(ONES) & !backslash
            | word.wrapping_sub(ONES * 0x20) & !word)
            & HIGHS;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(|b| !matches!(b, b'"' | b'\\' | 0..0x20)) {
        at += 1;
    }
    at
}

#[inline]
fn space(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(at) {
        at += 1;
    }
    at
}

/// Checks a string from behind its opening quote; gives where its closing quote ends and whether it holds
/// escapes.
#[inline]
fn string(bytes: &[u8], mut at: usize) -> Result<(usize, bool), Fault> {
    let mut escaped = false;
    loop {
        at = special(bytes, at);
        match bytes.get(at) {
            Some(b'"') => return Ok((at + 1, escaped)),
            Some(b'\\') => {
                escaped = true;
                at = escape(bytes, at)?;
            }
            Some(_) => return Err((at, "a control character stands in a string; expected it to be escaped")),
            None => return Err((at, "the text ends within a string")),
        }
    }
}

/// Checks an escape; gives where it ends.
fn escape(bytes: &[u8], at: usize) -> Result<usize, Fault> {
    match bytes.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        Some(b'u') if bytes.get(at + 2..at + 6).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) => {
            Ok(at + 6)
        }
        _ => Err((at, "unknown escape in a string")),
    }
}

/// Checks `null`, `true`, `false` or a number; gives where it ends.
fn scalar(bytes: &[u8], at: usize) -> Result<usize, Fault> {
    let word = |word: &[u8]| {
        let whole = bytes.get(at..).is_some_and(|rest| rest.starts_with(word));
        whole.then_some(at + word.len()).ok_or((at, "expected a value"))
    };
    match bytes.get(at) {
        Some(b'-' | b'0'..=b'9') => number(bytes, at),
        Some(b't') => word(b"true"),
        Some(b'f') => word(b"false"),
        Some(b'n') => word(b"null"),
        Some(_) => Err((at, "expected a value")),
        None => Err((at, "the text ends where a value is expected")),
    }
}

/// Checks a number; gives where it ends.
fn number(bytes: &[u8], mut at: usize) -> Result<usize, Fault> {
    let digits = |from: usize| {
        let count = bytes[from.min(bytes.len())..].iter().take_while(|b| b.is_ascii_digit()).count();
        if count == 0 { Err((from, "expected a digit")) } else { Ok(from + count) }
    };
    at += usize::from(bytes[at] == b'-');
    at = if bytes.get(at) == Some(&b'0') { at + 1 } else { digits(at)? };
    if bytes.get(at) == Some(&b'.') {
        at = digits(at + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        at = digits(at)?;
    }
    Ok(at)
}

/// Checks one whole value that begins at `at`; gives where it ends.
fn value(bytes: &[u8], mut at: usize) -> Result<usize, Fault> {
    // Which of the open brackets are objects, the innermost lowest.
    let (mut objects, mut depth) = (0u128, 0u32);
    loop {
        match bytes.get(at) {
            Some(b'"') => at = string(bytes, at + 1)?.0,
            Some(open @ (b'{' | b'[')) => {
                if depth == DEPTH_MAX {
                    return Err((at, "arrays and objects are nested too deeply"));
                }
                let object = *open == b'{';
                at = space(bytes, at + 1);
                if bytes.get(at) == Some(if object { &b'}' } else { &b']' }) {
                    at += 1;
                } else {
                    (objects, depth) = (objects << 1 | u128::from(object), depth + 1);
                    if object {
                        at = member(bytes, at)?;
                    }
                    continue;
                }
            }
            _ => at = scalar(bytes, at)?,
        }
        // A value ended: close what ends with it, up to the comma before the next one.
        loop {
            if depth == 0 {
                return Ok(at);
            }
            at = space(bytes, at);
            let object = objects & 1 == 1;
            match bytes.get(at) {
                Some(b',') => {
                    at = space(bytes, at + 1);
                    if object {
                        at = member(bytes, at)?;
                    }
                    break;
                }
                Some(b'}') if object => {}
                Some(b']') if !object => {}
                Some(_) if object => return Err((at, "expected a comma or a closing brace")),
                Some(_) => return Err((at, "expected a comma or a closing bracket")),
                None => return Err((at, "the text ends within an array or object")),
            }
            (objects, depth, at) = (objects >> 1, depth - 1, at + 1);
        }
    }
}

/// Checks a member's name and colon; gives where its value begins.
#[inline]
fn member(bytes: &[u8], at: usize) -> Result<usize, Fault> {
    if bytes.get(at) != Some(&b'"') {
        return Err((at, "expected a member's name in double quotes"));
    }
    let (end, _) = string(bytes, at + 1)?;
    let colon = space(bytes, end);
    if bytes.get(colon) != Some(&b':') {
        return Err((colon, "expected a colon after the member's name"));
    }
    Ok(space(bytes, colon + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    /// What the usual parser says of the same bytes.
    fn reference(text: &str) -> bool {
        serde_json::from_str::<IgnoredAny>(text).is_ok() && text.trim_matches([' ', '\t', '\r', '\n']) == text
    }

    #[test]
    fn every_byte_is_told_apart_at_every_place() {
        for length in 0..20 {
            for at in 0..length {
                for byte in 0..=255 {
                    let mut bytes = vec![0xc3; length];
                    bytes[at] = byte;
                    let expected = if matches!(byte, b'"' | b'\\' | 0..0x20) { at } else { length };
                    assert_eq!(special(&bytes, 0), expected, "{byte} at {at} of {length}");
                }
            }
        }
        assert_eq!(special(b"\"\x1f\x21\x20\x23\x22\x5d\x5b\x5c", 1), 1);
        assert_eq!(special(b"\x21\x21\x20\x23\x23\x5d\x5b\x5c!", 0), 7);
    }

    #[test]
    fn values_are_judged_as_by_the_usual_parser() {
        for text in [
            "null",
            "true",
            "false",
            "0",
            "-0",
            "-1.5e+10",
            "1E3",
            "\"\"",
            "\"a\\n\\u00e9\"",
            "[]",
            "{}",
            "[[],{}]",
            "{\"a\":[1,{\"b\":null}]}",
            "[1 , 2]",
            "{ \"a\" : 1 , \"b\" : 2 }",
            "\"\\ud800\"",
            "\"é😀\"",
            "",
            "nul",
            "truex",
            "01",
            "1.",
            ".5",
            "1e",
            "+1",
            "-",
            "--1",
            "0x1",
            "NaN",
            "\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\t\"",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "{\"a\":1,}",
            "{\"a\":1 \"b\":2}",
            "[}",
            "{]",
            "[",
            "{",
            "]",
            "[1]]",
            "1 1",
            "'a'",
            "\u{feff}1",
            "{\"a\" 1}",
            "{1:2}",
            "\"\\",
            "\"\\u12",
            "[\"a\", b]",
            "\u{a0}1",
        ] {
            assert_eq!(is_value(text.as_bytes()), reference(text), "{text}");
        }
    }

    #[test]
    fn nesting_ends_at_the_limit() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(is_value(nested(DEPTH_MAX as usize).as_bytes()));
        assert!(!is_value(nested(DEPTH_MAX as usize + 1).as_bytes()));
        assert!(!is_value("[".repeat(1 << 20).as_bytes()));
        let mixed = format!("{}0{}", "{\"a\":[".repeat(60), "]}".repeat(60));
        assert!(is_value(mixed.as_bytes()) && reference(&mixed));
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".*".prop_map(Into::into),
        ];
        leaf.prop_recursive(6, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::vec((".{0,5}", inner), 0..6)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_value_is_valid_however_it_is_spaced(value in json()) {
            let compact = value.to_string();
            prop_assert!(is_value(compact.as_bytes()));
            prop_assert!(is_value(serde_json::to_string_pretty(&value).unwrap().as_bytes()));
        }

        #[test]
        fn any_damage_is_judged_as_by_the_usual_parser(value in json(), at: usize, byte in prop::sample::select(&b"{}[]\",:\\ \n0-.eEut1a/"[..]), how in 0..3) {
            let mut bytes = value.to_string().into_bytes();
            let at = at % bytes.len();
            match how {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, byte),
            }
            if let Ok(text) = std::str::from_utf8(&bytes) {
                // Numbers beyond a double are grammatical; the reference parser refuses some.
                if is_value(&bytes) != reference(text) {
                    let refused = serde_json::from_str::<serde_json::Value>(text).unwrap_err().to_string();
                    prop_assert!(refused.contains("out of range"), "{text}: {refused}");
                }
            }
        }

        #[test]
        fn any_text_is_judged_as_by_the_usual_parser(text in "[\\[\\]{}\",:\\\\ 0-9.eEu+tfn-]{0,24}|\\PC*") {
            prop_assert_eq!(is_value(text.as_bytes()), reference(&text));
        }

        #[test]
        fn strings_are_unescaped_as_by_the_usual_parser(body in "([ -!#-\\[\\]-~]|\\\\[\"\\\\/bfnrtu]|\\\\u[0-9a-fA-F]{4}|\\\\ud[89a-f][0-9a-f]{2}|é|😀){0,20}") {
            let quoted = format!("\"{body}\"");
            let ours = Scanner::new(&quoted).token().and_then(|token| match token {
                Token::String(raw) => raw.text().map(Cow::into_owned),
                _ => unreachable!(),
            });
            prop_assert_eq!(ours.ok(), serde_json::from_str::<String>(&quoted).ok());
        }
    }
}
