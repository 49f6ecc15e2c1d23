//! The words of the flow protocol that are not CloudEvents: where an event stands in a stream.
//!
//! Newtypes, so that a position cannot be taken for a count or a history for a position. Every type here has
//! one text form (`Display`, `FromStr`, serde) used alike in URLs, JSON, SSE ids and logs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::timestamp::{self, Timestamp};

/// An event's place in its stream: rising, from 1, never reused within a [`History`].
///
/// Zero is no event's place: as a `first` or `last` it says "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl Position {
    /// "No event": before the first position of any stream.
    pub const NONE: Position = Position(0);
    /// The first position of a stream written here.
    pub const FIRST: Position = Position(1);

    /// The position after this one. Saturates: a stream cannot outlive 2^64 events.
    #[must_use]
    pub fn next(self) -> Position {
        Position(self.0.saturating_add(1))
    }

    /// The position `count` further on, saturating.
    #[must_use]
    pub fn plus(self, count: u64) -> Position {
        Position(self.0.saturating_add(count))
    }

    /// The position before this one; [`Position::NONE`] stays.
    #[must_use]
    pub fn previous(self) -> Position {
        Position(self.0.saturating_sub(1))
    }

    /// Whether this is [`Position::NONE`].
    #[must_use]
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Position {
    type Err = Malformed;

    /// Decimal digits only: no sign, no space.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Malformed("a position is a decimal number"));
        }
        text.parse().map(Position).map_err(|_| Malformed("a position is at most 18446744073709551615"))
    }
}

/// The random id within which a stream's positions mean something. Sixteen lower-case hex digits as text.
///
/// A stream gets one at creation, and a new one whenever positions that readers may have seen could be given
/// out again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct History(pub u64);

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for History {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.len() != 16 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(Malformed("a history is 16 lower-case hexadecimal digits"));
        }
        u64::from_str_radix(text, 16)
            .map(History)
            .map_err(|_| Malformed("a history is 16 hexadecimal digits"))
    }
}

impl Serialize for History {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for History {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A moment on the node's clock: milliseconds since 1970-01-01T00:00:00Z. As text, RFC 3339 with exactly three
/// digits of fraction and `Z`. This is what `flowtime` holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The greatest time that has an RFC 3339 text: the end of the year 9999.
    pub const MAX: Time = Time(253_402_300_799_999);
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(timestamp::millis_text(*self, &mut [0; timestamp::TEXT_MAX]))
    }
}

impl FromStr for Time {
    type Err = Malformed;

    /// Any RFC 3339 date-time; finer digits than milliseconds are cut off.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let time = Timestamp::parse(text)
            .ok_or(Malformed("a time is RFC 3339 with an offset, as 2026-01-31T12:00:00Z"))?;
        time.unix_millis().map(Time).ok_or(Malformed("a time lies after 1970"))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A stream's name: tokens of `[a-z0-9_-]` joined by dots, at most [`StreamName::BYTES_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName(Box<str>);

impl StreamName {
    /// The longest name: what Kafka allows a topic.
    pub const BYTES_MAX: usize = 249;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the first token begins with `_`: such names belong to the node itself.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('_')
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for StreamName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for StreamName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for StreamName {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.len() > Self::BYTES_MAX {
            return Err(Malformed("a stream's name has at most 249 characters"));
        }
        let token = |token: &str| {
            !token.is_empty() && token.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
        };
        if !text.split('.').all(token) {
            return Err(Malformed(
                "a stream's name is tokens of a-z, 0-9, _ and - joined by single dots, as weather.us.ny",
            ));
        }
        Ok(Self(text.into()))
    }
}

impl Serialize for StreamName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for StreamName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A text that is not the position, history, time or name it should be; says what one looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_as_rfc_3339_and_read_back() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_791_158_399_999, "2026-10-04T23:59:59.999Z"),
            (Time::MAX.0, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Time(millis).to_string(), text);
            assert_eq!(text.parse(), Ok(Time(millis)));
        }
        assert_eq!("1970-01-01T01:00:00.0019+01:00".parse(), Ok(Time(1)));
        assert!("1969-12-31T23:59:59Z".parse::<Time>().is_err());
        assert!("2026-01-01".parse::<Time>().is_err());
    }

    #[test]
    fn names_are_dot_separated_tokens() {
        for good in ["a", "weather.us.ny", "_weir.state", "a-b_c.0"] {
            assert_eq!(good.parse::<StreamName>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "a.", ".a", "a..b", "A", "a b", "a/b", "é", &"x".repeat(250)] {
            assert!(bad.parse::<StreamName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn positions_and_histories_have_one_text_form() {
        assert_eq!("41".parse(), Ok(Position(41)));
        for bad in ["", "+1", "-1", " 1", "1.0", "18446744073709551616"] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
        assert_eq!(History(0xab).to_string(), "00000000000000ab");
        assert_eq!("00000000000000ab".parse(), Ok(History(0xab)));
        assert!("AB".parse::<History>().is_err());
    }
}
