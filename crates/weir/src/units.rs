//! Quantities as people write them: `7d`, `1h30m`, `64MiB`, `10x`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use weir_event::flow::Time;

/// A length of time: a number with a unit, or several: `500ms`, `90s`, `1h30m`, `7d`, `2w`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{text:?} is no length of time; write a number and ms, s, m, h, d or w, as 90s or 7d");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest.get(..digits).and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
        rest = rest.get(digits..).unwrap_or_default();
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let unit = rest.get(..letters).unwrap_or_default();
        rest = rest.get(letters..).unwrap_or_default();
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return Err(wrong()),
        };
        let part = number.checked_mul(millis).ok_or_else(wrong)?;
        total = total.checked_add(Duration::from_millis(part)).ok_or_else(wrong)?;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// A number of bytes: `4096`, `64KiB`, `1MiB`, `10GiB`; also with powers of ten, `1MB`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!("{text:?} is no number of bytes; write a number and nothing, KiB, MiB, GiB or TiB, as 64MiB")
    };
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).ok_or_else(wrong)
}

/// How much faster than it happened: `10x`, `1.5x`, `3600`.
pub(crate) fn speed(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('x').unwrap_or(text);
    match number.parse::<f64>() {
        Ok(speed) if speed.is_finite() && speed > 0.0 => Ok(speed),
        _ => Err(format!("{text:?} is no speed; write how much faster than it happened, as 10x")),
    }
}

/// A moment: RFC 3339, or a length of time from now.
pub(crate) fn moment(text: &str) -> Result<Time, String> {
    if let Ok(time) = text.parse::<Time>() {
        return Ok(time);
    }
    match duration(text) {
        Ok(ahead) => Ok(Time(now().0.saturating_add(u64::try_from(ahead.as_millis()).unwrap_or(u64::MAX)))),
        Err(_) => {
            Err(format!("{text:?} is no moment; write 2027-01-31T12:00:00Z, or 30d for thirty days from now"))
        }
    }
}

/// Now, by this machine's clock.
pub(crate) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read() {
        for (text, seconds) in [("90s", 90), ("1h30m", 5400), ("7d", 604_800), ("2w", 1_209_600), ("0s", 0)] {
            assert_eq!(duration(text).unwrap(), Duration::from_secs(seconds));
        }
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        for text in
            ["", "5", "s", "5 s", "-5s", "1.5h", "99999999999999999999d", "18446744073709551615w", "5y"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_of_bytes_are_read() {
        for (text, count) in
            [("4096", 4096), ("64KiB", 65536), ("1MiB", 1 << 20), ("1MB", 1_000_000), ("0", 0)]
        {
            assert_eq!(bytes(text).unwrap(), count);
        }
        for text in ["", "MiB", "1 Mib", "-1", "1.5GiB", "99999999TiB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn speeds_and_moments() {
        assert_eq!(speed("10x"), Ok(10.0));
        assert_eq!(speed("0.5"), Ok(0.5));
        for text in ["", "x", "0", "-1x", "inf", "NaN"] {
            assert!(speed(text).is_err(), "{text}");
        }
        assert_eq!(moment("2027-01-31T12:00:00Z").unwrap().to_string(), "2027-01-31T12:00:00.000Z");
        assert!(moment("1h").unwrap() > now());
        assert!(moment("tomorrow").is_err());
    }
}
