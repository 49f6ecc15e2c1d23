//! A CloudEvents Timestamp: an instant together with the exact RFC 3339 text that said it.
//!
//! The text is what the producer signed and what every text format repeats; the instant is what filters
//! compare and what the protobuf format carries. So both are kept, but the text only where it is not the
//! canonical text of its instant: UTC as `Z`, upper-case `T`, and a fraction of no, three, six or nine digits,
//! as few as hold the nanoseconds (the JSON form of protobuf's `google.protobuf.Timestamp`). Most producers
//! write exactly that, and such a timestamp costs twelve bytes and no allocation.
//!
//! Accepted is RFC 3339 section 5.6 to the letter: `t` and `z` in either case, any offset, any number of
//! fraction digits (those past the ninth stay in the text and are cut from the instant), a leap second as
//! `:60` (the instant is the last nanosecond before it). Instants outside of the years 1 to 9999 in UTC are
//! refused because the protobuf format cannot hold them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use crate::flow::Time;

/// Seconds of 0001-01-01T00:00:00Z, the first that protobuf's Timestamp may hold.
const SECONDS_MIN: i64 = -62_135_596_800;
/// Seconds of 9999-12-31T23:59:59Z, the last.
const SECONDS_MAX: i64 = 253_402_300_799;
/// Room for the longest canonical text.
pub(crate) const TEXT_MAX: usize = 30;

/// An instant with nanoseconds and the text that said it. See the module's head.
///
/// Equality is that of the text (and so of the instant); [`Timestamp::cmp_instant`] compares instants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Timestamp<'a> {
    seconds: i64,
    nanos: u32,
    /// The text, only where it is not the canonical one.
    text: Option<Cow<'a, str>>,
}

impl<'a> Timestamp<'a> {
    /// Reads an RFC 3339 date-time. `None` if it is none or lies outside of the years 1 to 9999 UTC.
    #[must_use]
    pub fn parse(text: impl Into<Cow<'a, str>>) -> Option<Self> {
        Self::try_parse(text.into()).ok()
    }

    /// [`Timestamp::parse`] that gives the text back.
    pub(crate) fn try_parse(text: Cow<'a, str>) -> Result<Self, Cow<'a, str>> {
        match parse(text.as_bytes()) {
            Some((seconds, nanos, canonical)) => {
                Ok(Self { seconds, nanos, text: (!canonical).then_some(text) })
            }
            None => Err(text),
        }
    }

    /// The instant `nanos` after `seconds` since 1970-01-01T00:00:00Z, under its canonical text. `None` if
    /// protobuf's Timestamp could not hold it.
    #[must_use]
    pub fn from_unix(seconds: i64, nanos: u32) -> Option<Self> {
        let valid = (SECONDS_MIN..=SECONDS_MAX).contains(&seconds) && nanos < 1_000_000_000;
        valid.then_some(Self { seconds, nanos, text: None })
    }

    /// The instant of a time on a node's clock; the end of the year 9999 for whatever lies after it.
    #[must_use]
    pub fn from_millis(time: Time) -> Self {
        let millis = time.0.min(Time::MAX.0);
        let seconds = i64::try_from(millis / 1000).unwrap_or(SECONDS_MAX);
        let nanos = u32::try_from(millis % 1000).unwrap_or_default() * 1_000_000;
        Self { seconds, nanos, text: None }
    }

    /// Whole seconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn seconds(&self) -> i64 {
        self.seconds
    }

    /// Nanoseconds within the second.
    #[must_use]
    pub fn nanos(&self) -> u32 {
        self.nanos
    }

    /// Whole milliseconds since 1970-01-01T00:00:00Z, cut; `None` before that.
    #[must_use]
    pub fn unix_millis(&self) -> Option<u64> {
        u64::try_from(self.seconds * 1000 + i64::from(self.nanos / 1_000_000)).ok()
    }

    /// The text as its producer wrote it.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        match &self.text {
            Some(text) => Cow::Borrowed(text),
            None => Cow::Owned(self.to_string()),
        }
    }

    /// The text, if it is another than the canonical one of the instant.
    #[must_use]
    pub fn exact_text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// How many bytes [`Timestamp::text`] has.
    #[must_use]
    pub fn text_len(&self) -> usize {
        self.text.as_ref().map_or_else(|| canonical_len(self.nanos), |text| text.len())
    }

    /// Appends the text.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        match &self.text {
            Some(text) => out.extend_from_slice(text.as_bytes()),
            None => {
                let mut buffer = [0; TEXT_MAX];
                out.extend_from_slice(canonical(self.seconds, self.nanos, &mut buffer));
            }
        }
    }

    /// Orders by instant; two texts of one instant are equal here.
    #[must_use]
    pub fn cmp_instant(&self, other: &Timestamp<'_>) -> Ordering {
        (self.seconds, self.nanos).cmp(&(other.seconds, other.nanos))
    }

    /// The same timestamp, borrowing.
    #[must_use]
    pub fn reborrow(&self) -> Timestamp<'_> {
        Timestamp { seconds: self.seconds, nanos: self.nanos, text: self.text.as_deref().map(Cow::Borrowed) }
    }

    /// The same timestamp, owning.
    #[must_use]
    pub fn into_owned(self) -> Timestamp<'static> {
        let text = self.text.map(|text| Cow::Owned(text.into_owned()));
        Timestamp { seconds: self.seconds, nanos: self.nanos, text }
    }
}

impl fmt::Display for Timestamp<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => f.write_str(text),
            None => {
                let mut buffer = [0; TEXT_MAX];
                let text = canonical(self.seconds, self.nanos, &mut buffer);
                f.write_str(std::str::from_utf8(text).map_err(|_| fmt::Error)?)
            }
        }
    }
}

/// Bytes of the canonical text of an instant with these nanoseconds.
fn canonical_len(nanos: u32) -> usize {
    match fraction_digits(nanos) {
        0 => 20,
        digits => 21 + digits,
    }
}

fn fraction_digits(nanos: u32) -> usize {
    if nanos == 0 {
        0
    } else if nanos.is_multiple_of(1_000_000) {
        3
    } else if nanos.is_multiple_of(1000) {
        6
    } else {
        9
    }
}

/// Reads `text`: seconds, nanoseconds, and whether the text is the canonical one.
fn parse(text: &[u8]) -> Option<(i64, u32, bool)> {
    let (head, tail) = text.split_at_checked(19)?;
    let two = |at: usize| digits(&head[at..at + 2]);
    let (year, month, day) = (digits(&head[..4])?, two(5)?, two(8)?);
    let (hour, minute, second) = (two(11)?, two(14)?, two(17)?);
    let separators = head[4] == b'-' && head[7] == b'-' && head[13] == b':' && head[16] == b':';
    if !separators || !matches!(head[10], b'T' | b't') {
        return None;
    }
    if !(1..=12).contains(&month) || day == 0 || day > days_in(year, month) || hour > 23 || minute > 59 {
        return None;
    }
    let (fraction, offset) = match tail.split_first()? {
        (b'.', rest) => rest.split_at(rest.iter().take_while(|b| b.is_ascii_digit()).count()),
        _ => (&[][..], tail),
    };
    if tail[0] == b'.' && fraction.is_empty() {
        return None;
    }
    let offset_seconds = match offset {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = i64::from(hours) * 3600 + i64::from(minutes) * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    let mut nanos = 0;
    for at in 0..9 {
        nanos = nanos * 10 + fraction.get(at).map_or(0, |digit| u32::from(digit - b'0'));
    }
    let leap = second == 60;
    let second = if leap {
        nanos = 999_999_999;
        59
    } else if second > 60 {
        return None;
    } else {
        second
    };
    let seconds = days_from_civil(year, month, day) * 86_400
        + i64::from(hour) * 3600
        + i64::from(minute) * 60
        + i64::from(second)
        - offset_seconds;
    if !(SECONDS_MIN..=SECONDS_MAX).contains(&seconds) {
        return None;
    }
    // RFC 3339 section 5.7: a leap second ends a UTC day, wherever on the clock the offset puts that.
    if leap && seconds.rem_euclid(86_400) != 86_399 {
        return None;
    }
    let canonical = !leap && offset == b"Z" && head[10] == b'T' && fraction.len() == fraction_digits(nanos);
    Some((seconds, nanos, canonical))
}

/// The text of a time on a node's clock: RFC 3339 in UTC with exactly three digits of fraction.
pub(crate) fn millis_text(time: Time, buffer: &mut [u8; TEXT_MAX]) -> &str {
    let time = Timestamp::from_millis(time);
    canonical(time.seconds, time.nanos, buffer);
    buffer[19] = b'.';
    buffer[23] = b'Z';
    std::str::from_utf8(&buffer[..24]).unwrap_or_default()
}

fn digits(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0, |value, b| b.is_ascii_digit().then(|| value * 10 + u32::from(b - b'0')))
}

fn days_in(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, counted in eras of 400 years from 1 March 0000.
fn days_from_civil(year: u32, month: u32, day: u32) -> i64 {
    let year = i64::from(year) - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year =
        (153 * (i64::from(month) + if month > 2 { -3 } else { 9 }) + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Writes the canonical text of an instant and returns it.
fn canonical(seconds: i64, nanos: u32, buffer: &mut [u8; TEXT_MAX]) -> &[u8] {
    let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    *buffer = *b"0000-00-00T00:00:00.000000000Z";
    put(&mut buffer[0..4], year);
    put(&mut buffer[5..7], month);
    put(&mut buffer[8..10], day);
    put(&mut buffer[11..13], second_of_day / 3600);
    put(&mut buffer[14..16], second_of_day / 60 % 60);
    put(&mut buffer[17..19], second_of_day % 60);
    let len = canonical_len(nanos);
    if nanos != 0 {
        put(&mut buffer[20..29], i64::from(nanos));
    }
    buffer[len - 1] = b'Z';
    &buffer[..len]
}

/// Writes `value` in decimal, right-aligned over the zeros that are there.
fn put(place: &mut [u8], mut value: i64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or_default();
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn canonical_texts_carry_no_text_and_others_keep_theirs() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2018-04-05T17:31:00Z", 1_522_949_460, 0),
            ("2018-04-05T17:31:00.120Z", 1_522_949_460, 120_000_000),
            ("2018-04-05T17:31:00.000001Z", 1_522_949_460, 1000),
            ("2018-04-05T17:31:00.000000001Z", 1_522_949_460, 1),
            ("0001-01-01T00:00:00Z", SECONDS_MIN, 0),
            ("9999-12-31T23:59:59.999999999Z", SECONDS_MAX, 999_999_999),
        ] {
            let parsed = Timestamp::parse(text).unwrap();
            assert_eq!(
                (parsed.seconds(), parsed.nanos(), parsed.exact_text()),
                (seconds, nanos, None),
                "{text}"
            );
            assert_eq!(parsed.to_string(), text);
            assert_eq!(parsed.text_len(), text.len());
        }
        for (text, seconds, nanos) in [
            ("1970-01-01t00:00:00Z", 0, 0),
            ("1970-01-01T00:00:00z", 0, 0),
            ("1970-01-01T00:00:00-00:00", 0, 0),
            ("1970-01-01T00:00:00.0Z", 0, 0),
            ("1970-01-01T00:00:00.1Z", 0, 100_000_000),
            ("1970-01-01T00:00:00.1230Z", 0, 123_000_000),
            ("1970-01-01T00:00:00.1234567891Z", 0, 123_456_789),
            ("1970-01-01T01:30:00+01:30", 0, 0),
            ("1969-12-31T23:00:00-01:00", 0, 0),
            ("1990-12-31T15:59:60-08:00", 662_687_999, 999_999_999),
        ] {
            let parsed = Timestamp::parse(text).unwrap();
            assert_eq!((parsed.seconds(), parsed.nanos()), (seconds, nanos), "{text}");
            assert_eq!(parsed.exact_text(), Some(text));
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn what_is_not_rfc_3339_is_refused() {
        for text in [
            "",
            "now",
            "2018-04-05",
            "2018-04-05T17:31Z",
            "2018-04-05T17:31:00",
            "2018-04-05 17:31:00Z",
            "2018-04-05T17:31:00.Z",
            "2018-04-05T17:31:00,5Z",
            "2018-04-05T24:00:00Z",
            "2018-04-05T17:60:00Z",
            "2018-04-05T17:31:61Z",
            "2018-04-05T17:31:60Z",
            "2018-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2018-13-01T00:00:00Z",
            "2018-00-01T00:00:00Z",
            "2018-01-00T00:00:00Z",
            "2018-04-05T17:31:00+1:00",
            "2018-04-05T17:31:00+24:00",
            "2018-04-05T17:31:00Zx",
            "0000-01-01T00:00:00Z",
            "18-04-05T17:31:00Z",
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-01:00",
            "２018-04-05T17:31:00Z",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_instant_prints_and_reads_back(seconds in SECONDS_MIN..=SECONDS_MAX, nanos in 0u32..1_000_000_000, cut in 0usize..10) {
            let nanos = nanos - nanos % 10u32.pow(u32::try_from(cut).unwrap().min(9));
            let time = Timestamp::from_unix(seconds, nanos).unwrap();
            let text = time.to_string();
            prop_assert_eq!(time.text_len(), text.len());
            prop_assert_eq!(Timestamp::parse(text.clone()), Some(time));
            let jiff = jiff::Timestamp::new(seconds, i32::try_from(nanos).unwrap());
            if let Ok(jiff) = jiff { prop_assert_eq!(text.parse::<jiff::Timestamp>().unwrap(), jiff); }
        }

        #[test]
        fn arbitrary_texts_do_not_panic(text in "[0-9TtZz:.+-]{0,40}|\\PC*") {
            if let Some(time) = Timestamp::parse(text.as_str()) { prop_assert_eq!(time.to_string(), text); }
        }
    }
}
