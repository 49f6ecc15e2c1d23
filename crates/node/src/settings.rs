//! What a node can be told: plain data, declared once.
//!
//! Each setting stands in one row of the table below with its words, type and default. From that row come the
//! field, the default, and an entry of [`Settings::KEYS`], from which the program derives `weir.toml`, its flags,
//! its environment variables and the reference in the documentation.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::control::quantity;

/// A setting as the program's configuration knows it.
#[derive(Clone, Copy)]
pub struct Key {
    /// Its name: `snake_case`, the same in the file, and as flag and environment variable in their spelling.
    pub name: &'static str,
    /// What it does, in Markdown.
    pub doc: &'static str,
    /// What its value looks like.
    pub expected: &'static str,
    /// Sets it from text; the error says what was expected.
    pub set: fn(&mut Settings, &str) -> Result<(), String>,
    /// Its value as text that [`Key::set`] takes.
    pub show: fn(&Settings) -> String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:expr;)+) => {
        /// How a node runs. The defaults suit a small machine that does other things as well.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Settings {
            $($(#[doc = $doc])+ pub $name: $type,)+
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl Settings {
            /// Every setting, in the order of the reference.
            pub const KEYS: &'static [Key] = &[$(Key {
                name: stringify!($name),
                doc: concat!($($doc, "\n"),+),
                expected: <$type as Setting>::EXPECTED,
                set: |settings, text| {
                    settings.$name = Setting::read(text)
                        .map_err(|found| format!("{found}; expected {}", <$type as Setting>::EXPECTED))?;
                    Ok(())
                },
                show: |settings| settings.$name.show(),
            }),+];
        }
    };
}

settings! {
    /// The address to listen on. Port 0 takes a free one.
    listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
    /// The URL under which others reach the node, if it is not the address it listens on.
    url: Option<String> = None;
    /// The directory for everything the node keeps.
    data: PathBuf = PathBuf::from("weir-data");
    /// The organization that the node acts for: a domain name.
    name: String = "localhost".to_owned();
    /// The largest event, as stored.
    event_bytes_max: Bytes = Bytes(1 << 20);
    /// What the attributes of one event may hold together.
    attributes_bytes_max: Bytes = Bytes(64 << 10);
    /// The largest body of one publish.
    batch_bytes_max: Bytes = Bytes(16 << 20);
    /// How many events one publish may hold.
    batch_events_max: u64 = 10_000;
    /// How many events a publisher may append per second, over all its connections. 0: any number.
    publish_rate_max: u64 = 0;
    /// Bodies of publishes and answers of range reads that may be in memory at the same time. Beyond it publishers
    /// are asked to try again.
    in_flight_bytes_max: Bytes = Bytes(256 << 20);
    /// Connections open at the same time. Beyond it newcomers wait to be accepted.
    connections_max: u64 = 25_000;
    /// Deliveries open at the same time.
    deliveries_max: u64 = 25_000;
    /// Within this time a request's head, and then its body, must have arrived; an idle connection is closed after
    /// it.
    request_timeout: Duration = Duration::from_secs(30);
    /// When the node stops, requests under way have this time to end.
    drain_timeout: Duration = Duration::from_secs(5);
    /// At least so often every push channel says where it stands.
    heartbeat: Duration = Duration::from_secs(15);
    /// A consumer that takes nothing for so long is cut off. It loses nothing: it goes on where it was.
    stall_timeout: Duration = Duration::from_secs(120);
    /// Events kept in memory for the consumers that follow closely, over all streams.
    tail_bytes_max: Bytes = Bytes(64 << 20);
    /// How many consumers that are behind are read for at the same time.
    turns_max: u64 = 4;
    /// How many stored bytes a range read looks at before it answers with what it has and where to go on.
    scan_bytes_max: Bytes = Bytes(64 << 20);
    /// How long a range read looks before it answers with what it has and where to go on.
    scan_time_max: Duration = Duration::from_secs(1);
    /// The share of the disk from which on the node warns.
    disk_warn: Percent = Percent(80);
    /// The share of the disk from which on publishers are refused.
    disk_stop: Percent = Percent(95);
    /// Memory for telling duplicates, all streams together; the oldest ids go first.
    dedupe_bytes_max: Bytes = Bytes(256 << 20);
    /// Kept back on the disk, so that decisions and acknowledgements go on when it is full.
    reserve_bytes: Bytes = Bytes(64 << 20);
    /// Allows an address other than loopback without TLS: tokens and events are then readable on the way.
    insecure_plaintext: bool = false;
}

/// A number of bytes, written as `16MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl Bytes {
    /// As a number that can index memory.
    #[must_use]
    pub fn get(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Hundredths, written as `80%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u8);

impl Percent {
    /// As a share of one.
    #[must_use]
    pub fn share(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

/// A type of value that a setting can have.
pub trait Setting: Sized {
    /// What it looks like.
    const EXPECTED: &'static str;

    /// Reads it; the error says what was found wrong.
    fn read(text: &str) -> Result<Self, String>;

    /// Writes it as [`Setting::read`] takes it.
    fn show(&self) -> String;
}

macro_rules! by_text {
    ($($type:ty, $expected:literal;)+) => {
        $(impl Setting for $type {
            const EXPECTED: &'static str = $expected;

            fn read(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| format!("{text:?} is not valid"))
            }

            fn show(&self) -> String {
                self.to_string()
            }
        })+
    };
}

by_text! {
    SocketAddr, "an address and port, as 127.0.0.1:8080";
    String, "a text";
    u64, "a number";
    bool, "true or false";
}

impl Setting for Option<String> {
    const EXPECTED: &'static str = "a text, or nothing";

    fn read(text: &str) -> Result<Self, String> {
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    fn show(&self) -> String {
        self.clone().unwrap_or_default()
    }
}

impl Setting for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("the path is empty".to_owned()) } else { Ok(text.into()) }
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Setting for Bytes {
    const EXPECTED: &'static str = "a number of bytes, as 16MiB";

    fn read(text: &str) -> Result<Self, String> {
        quantity::size(&value(text)).map(Self)
    }

    fn show(&self) -> String {
        quantity::size_text(self.0)
    }
}

impl Setting for Duration {
    const EXPECTED: &'static str = "a duration, as 15s";

    fn read(text: &str) -> Result<Self, String> {
        quantity::duration(&value(text))
    }

    fn show(&self) -> String {
        quantity::duration_text(*self)
    }
}

impl Setting for Percent {
    const EXPECTED: &'static str = "a percentage from 1% to 100%";

    fn read(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').unwrap_or(text).trim();
        match number.parse() {
            Ok(percent @ 1..=100) => Ok(Self(percent)),
            _ => Err(format!("{text:?} is not one")),
        }
    }

    fn show(&self) -> String {
        format!("{}%", self.0)
    }
}

/// A quantity in a file may be a bare number.
fn value(text: &str) -> Value {
    text.parse::<u64>().map_or_else(|_| text.into(), Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_reads_what_it_shows() {
        let mut settings = Settings::default();
        for key in Settings::KEYS {
            let shown = (key.show)(&settings);
            (key.set)(&mut settings, &shown).unwrap_or_else(|error| panic!("{}: {error}", key.name));
            assert!(key.doc.trim().ends_with('.'), "{}", key.name);
        }
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn a_wrong_value_says_what_was_expected() {
        let key = |name: &str| Settings::KEYS.iter().find(|key| key.name == name).unwrap();
        let mut settings = Settings::default();
        for (name, text) in [("listen", "8080"), ("disk_warn", "0%"), ("data", ""), ("heartbeat", "soon")] {
            let error = (key(name).set)(&mut settings, text).unwrap_err();
            assert!(error.contains(key(name).expected), "{error}");
        }
        (key("event_bytes_max").set)(&mut settings, "2MiB").unwrap();
        assert_eq!(settings.event_bytes_max, Bytes(2 << 20));
    }
}
