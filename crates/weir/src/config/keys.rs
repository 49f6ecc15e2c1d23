//! Everything a node can be told, as one list: what `weir-node` declares in its settings, and what only the program
//! knows (its logs). Each is declared once, there or here.

use std::net::SocketAddr;

use weir_node::settings;

/// A setting: everything there is to know of it.
pub(crate) struct Key {
    /// Its name in the file.
    pub(crate) name: &'static str,
    /// What it does, in Markdown. The first sentence stands in `--help`.
    pub(crate) doc: &'static str,
    /// What its value looks like, in words.
    pub(crate) expected: &'static str,
    /// Its default, as one would write it; empty if there is none.
    pub(crate) default: String,
    set: Set,
}

enum Set {
    /// A setting of the node.
    Node(fn(&mut settings::Settings, &str) -> Result<(), String>),
    /// A setting of the program.
    Program(fn(&mut Config, &str) -> Result<(), String>),
}

impl Key {
    /// Takes a value, or says what is wrong with it.
    pub(crate) fn set(&self, config: &mut Config, text: &str) -> Result<(), String> {
        match self.set {
            Set::Node(set) => set(&mut config.node, text),
            Set::Program(set) => set(config, text),
        }
    }

    /// The flag, without its dashes.
    pub(crate) fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("WEIR_{}", self.name.to_ascii_uppercase())
    }

    /// Whether naming the flag is enough.
    pub(crate) fn is_switch(&self) -> bool {
        self.expected == "true or false"
    }

    /// A word for its value in help.
    pub(crate) fn value(&self) -> &'static str {
        match self.name {
            "listen" => "ADDR",
            "url" => "PUBLIC_BASE",
            "data" => "DIR",
            "name" => "ORG_DOMAIN",
            _ if self.expected.contains("bytes") => "BYTES",
            _ if self.expected.contains("duration") => "TIME",
            _ if self.expected.contains("percent") => "PERCENT",
            _ if self.expected.contains("number") => "N",
            _ => "TEXT",
        }
    }

    /// The doc's first sentence, without its full stop.
    pub(crate) fn short(&self) -> String {
        let doc = self.doc.split_whitespace().collect::<Vec<_>>().join(" ");
        doc.split(". ").next().unwrap_or_default().trim_end_matches('.').to_owned()
    }
}

/// How the program runs a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// What the node itself is told.
    pub(crate) node: settings::Settings,
    /// How log lines are written.
    pub(crate) log_format: LogFormat,
    /// What is logged.
    pub(crate) log_level: String,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self { node: settings::Settings::default(), log_format: LogFormat::Text, log_level: "info".into() }
    }
}

/// Every setting, in the order of help and reference.
pub(crate) fn keys() -> Vec<Key> {
    let defaults = settings::Settings::default();
    let mut keys: Vec<Key> = settings::Settings::KEYS
        .iter()
        .map(|key| Key {
            name: key.name,
            doc: key.doc,
            expected: key.expected,
            default: (key.show)(&defaults),
            set: Set::Node(key.set),
        })
        .collect();
    keys.push(Key {
        name: "log_format",
        doc: "How log lines are written on stderr: `text` for people or `json`, one object a line.",
        expected: "text or json",
        default: "text".into(),
        set: Set::Program(|config, text| {
            config.log_format = match text {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err(format!("{text:?} is no log format; expected text or json")),
            };
            Ok(())
        }),
    });
    keys.push(Key {
        name: "log_level",
        doc: "What is logged: error, warn, info, debug or trace. Also by module, as `info,weir_log=debug`.",
        expected: "a level",
        default: "info".into(),
        set: Set::Program(|config, text| {
            tracing_subscriber::EnvFilter::try_new(text).map_err(|error| format!("{text:?}: {error}"))?;
            config.log_level = text.to_owned();
            Ok(())
        }),
    });
    keys
}

impl Config {
    /// What types alone cannot tell; names the key to change.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let node = &self.node;
        if !is_loopback(&node.listen) && !node.insecure_plaintext {
            return Err((
                "listen",
                format!(
                    "{} can be reached from other machines, and this version speaks no TLS yet: put a proxy that does \
                     in front of a loopback address, or say --insecure-plaintext if the network is safe",
                    node.listen
                ),
            ));
        }
        if let Some(url) = &node.url {
            let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            let host = rest.and_then(|rest| rest.split('/').next()).filter(|host| !host.is_empty());
            if host.is_none() || url.contains(['?', '#', '@', ' ']) {
                return Err(("url", format!("{url:?} is no base URL; write https://node.example")));
            }
        }
        if !is_domain(&node.name) {
            return Err(("name", format!("{:?} is no domain name; write one as acme.example", node.name)));
        }
        if node.disk_warn > node.disk_stop {
            return Err(("disk_warn", "must not exceed disk_stop".into()));
        }
        if node.attributes_bytes_max > node.event_bytes_max {
            return Err(("attributes_bytes_max", "must not exceed event_bytes_max".into()));
        }
        if node.event_bytes_max > node.batch_bytes_max {
            return Err(("event_bytes_max", "must not exceed batch_bytes_max".into()));
        }
        Ok(())
    }
}

/// Whether only this machine can reach the address.
pub(crate) fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    text.len() <= 253 && text.split('.').all(label)
}
