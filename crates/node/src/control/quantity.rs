//! Sizes, durations and rates as people write them: `10GiB`, `7d`, `50/s`. Each has one canonical text, the
//! shortest that means exactly the same, so that what was read is written back as a reader expects it.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
];

const DURATIONS: [(&str, u64); 6] =
    [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("ms", 1), ("s", 1_000)];

/// Bytes from `"10GiB"`, `"500MB"`, `"4096"` or a whole number.
pub fn size(value: &Value) -> Result<u64, String> {
    const EXPECTED: &str = "must be a number of bytes, or a size such as \"10GiB\" or \"500MB\"";
    if let Some(bytes) = value.as_u64() {
        return Ok(bytes);
    }
    let text = value.as_str().ok_or(EXPECTED)?;
    let (number, unit) = split(text).ok_or(EXPECTED)?;
    let unit = match unit {
        "" | "B" => 1,
        unit => SIZES.iter().find(|(name, _)| *name == unit).ok_or(EXPECTED)?.1,
    };
    number.checked_mul(unit).ok_or_else(|| "is larger than any disk".to_owned())
}

/// The canonical text of a size.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    for (name, unit) in SIZES.iter().filter(|_| bytes > 0) {
        if bytes.is_multiple_of(*unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    format!("{bytes}B")
}

/// A duration from `"7d"`, `"1h30m"`, `"250ms"`; never a bare number, whose unit nobody can guess.
pub fn duration(value: &Value) -> Result<Duration, String> {
    const EXPECTED: &str = "must be a duration such as \"7d\", \"1h30m\" or \"90s\"";
    let mut rest = value.as_str().filter(|text| !text.is_empty()).ok_or(EXPECTED)?;
    let (mut millis, mut last) = (0_u64, u64::MAX);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let number: u64 = rest[..digits].parse().map_err(|_| EXPECTED)?;
        let name = &rest[digits..digits + letters];
        let unit = DURATIONS.iter().find(|(known, _)| *known == name).ok_or(EXPECTED)?.1;
        if unit >= last {
            return Err(EXPECTED.to_owned());
        }
        last = unit;
        millis = number
            .checked_mul(unit)
            .and_then(|part| millis.checked_add(part))
            .filter(|millis| *millis <= 100 * 366 * 86_400_000)
            .ok_or("is longer than a hundred years")?;
        rest = &rest[digits + letters..];
    }
    Ok(Duration::from_millis(millis))
}

/// The canonical text of a duration, exact to the millisecond.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    for (name, unit) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis > 0 && millis.is_multiple_of(unit) {
            return format!("{}{name}", millis / unit);
        }
    }
    format!("{millis}ms")
}

/// How many events in how long: `50/s`, `600/m`, `10000/h`, or a number meaning per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many events.
    pub events: u32,
    /// In how long.
    pub per: Duration,
}

impl Rate {
    /// Events per second.
    #[must_use]
    pub fn per_second(self) -> f64 {
        f64::from(self.events) / self.per.as_secs_f64()
    }

    /// Reads a rate.
    pub fn parse(value: &Value) -> Result<Self, String> {
        const EXPECTED: &str = "must be a rate such as \"50/s\", \"600/m\" or \"10000/h\"";
        let (events, seconds) = match value {
            Value::Number(number) => (number.as_u64().ok_or(EXPECTED)?, 1),
            Value::String(text) => {
                let (number, unit) = text.split_once('/').ok_or(EXPECTED)?;
                if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(EXPECTED.to_owned());
                }
                let seconds = match unit {
                    "s" => 1,
                    "m" => 60,
                    "h" => 3600,
                    "d" => 86_400,
                    _ => return Err(EXPECTED.to_owned()),
                };
                (number.parse().map_err(|_| EXPECTED)?, seconds)
            }
            _ => return Err(EXPECTED.to_owned()),
        };
        match u32::try_from(events) {
            Ok(events) if events > 0 => Ok(Self { events, per: Duration::from_secs(seconds) }),
            _ => Err("must lie between 1 and 4294967295 events".to_owned()),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            60 => "m",
            3600 => "h",
            86_400 => "d",
            _ => "s",
        };
        write!(f, "{}/{unit}", self.events)
    }
}

/// A whole number and what follows it.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    Some((text[..digits].parse().ok()?, text[digits..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sizes_and_durations_read_as_written() {
        for (text, bytes) in
            [("10GiB", 10 << 30), ("500MB", 500_000_000), ("1 KiB", 1024), ("7B", 7), ("0", 0)]
        {
            assert_eq!(size(&json!(text)), Ok(bytes), "{text}");
        }
        assert_eq!(size(&json!(4096)), Ok(4096));
        for bad in [json!("10 G"), json!("GiB"), json!(-1), json!(1.5), json!("99999999TiB"), json!(null)] {
            assert!(size(&bad).is_err(), "{bad}");
        }
        for (text, millis) in [("7d", 604_800_000), ("1h30m", 5_400_000), ("250ms", 250), ("1w", 604_800_000)]
        {
            assert_eq!(duration(&json!(text)), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "7", "7 d", "m7", "1m1h", "1d1d", "101y", "99999999999d", "é"] {
            assert!(duration(&json!(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn canonical_texts_read_back() {
        for bytes in [0, 1, 1000, 1023, 1024, 10 << 30, u64::MAX] {
            assert_eq!(size(&json!(size_text(bytes))), Ok(bytes));
        }
        for millis in [0, 1, 1500, 60_000, 86_400_000, 90_061_001] {
            let given = Duration::from_millis(millis);
            assert_eq!(duration(&json!(duration_text(given))), Ok(given));
        }
        for text in ["50/s", "600/m", "1/h", "9/d"] {
            assert_eq!(Rate::parse(&json!(text)).map(|rate| rate.to_string()), Ok(text.to_owned()));
        }
        for bad in [json!("0/s"), json!("5"), json!("5/y"), json!(-1), json!("+5/s")] {
            assert!(Rate::parse(&bad).is_err(), "{bad}");
        }
    }
}
