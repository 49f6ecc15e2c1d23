//! What nodes answer, as plain data.
//!
//! Members that this version does not know are kept in `more`, never an error: owners of nodes and clients
//! upgrade apart. So is a state or an access that this version has no word for.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use weir_event::flow::{History, Position, StreamName};

/// What `/.well-known/flow` says of an organization's node.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct WellKnown {
    /// The organization's domain.
    #[serde(default)]
    pub organization: String,
    /// Version of the flow protocol, `major.minor`.
    #[serde(default)]
    pub spec: String,
    /// What this node can do beyond the first version: names of members and behaviours it understands.
    #[serde(default)]
    pub features: Vec<String>,
    /// Base URLs by kind; `http` is what the paths of the API are appended to.
    #[serde(default)]
    pub endpoints: BTreeMap<String, Value>,
    /// Everything else.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl WellKnown {
    /// Whether the node names this feature.
    #[must_use]
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|name| name == feature)
    }
}

/// A stream: its descriptor and what the node adds.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Stream {
    /// Its name on its node.
    pub name: StreamName,
    /// Its address anywhere.
    #[serde(default)]
    pub uri: String,
    /// The organization responsible.
    #[serde(default)]
    pub owner: String,
    /// One line.
    #[serde(default)]
    pub title: String,
    /// Who may read: `open`, `approval`, `allow` or `private`.
    #[serde(default)]
    pub access: String,
    /// Within which positions mean something. Not shown to who may only know that the stream exists.
    #[serde(default)]
    pub history: Option<History>,
    /// The first position kept; none when empty.
    #[serde(default)]
    pub first: Position,
    /// The last position; none when empty.
    #[serde(default)]
    pub last: Position,
    /// Bytes stored.
    #[serde(default)]
    pub bytes: u64,
    /// Everything else.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// The answer to a publish.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Published {
    /// The first position newly stored.
    #[serde(default)]
    pub first: Option<Position>,
    /// The last position newly stored.
    #[serde(default)]
    pub last: Option<Position>,
    /// How many were newly stored.
    #[serde(default)]
    pub count: u64,
    /// How many the stream already had.
    #[serde(default)]
    pub duplicates: u64,
    /// The stream's history.
    #[serde(default)]
    pub history: Option<History>,
    /// What the acknowledgement promises: `fsync` or `written`.
    #[serde(default)]
    pub durability: String,
}

/// Where a subscription stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Waits for the producer's decision.
    Requested,
    /// Accepted, its grant not yet collected.
    Accepted,
    /// Delivers.
    Active,
    /// Paused by one side or both.
    Suspended,
    /// Ended; its `reason` says how.
    Closed,
    /// A state this version has no word for.
    Other(String),
}

impl State {
    /// The word for it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            State::Requested => "requested",
            State::Accepted => "accepted",
            State::Active => "active",
            State::Suspended => "suspended",
            State::Closed => "closed",
            State::Other(word) => word,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for State {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        Ok(match word.as_str() {
            "requested" => State::Requested,
            "accepted" => State::Accepted,
            "active" => State::Active,
            "suspended" => State::Suspended,
            "closed" => State::Closed,
            _ => State::Other(word),
        })
    }
}

/// A subscription as its node shows it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Relation {
    /// Its id; opens nothing.
    pub id: String,
    /// Where it stands.
    pub state: State,
    /// Who decided or suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Value>,
    /// Why it stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<Value>,
    /// What was asked for: `stream`, `from`, `contact`, `note`, `ack`.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// Once, for a request made without credential: what alone reads it and collects its grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Once: the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// All that a client without a node needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// What the producer imposes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imposed: Option<Value>,
    /// Everything else.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Relation {
    /// The stream asked for.
    #[must_use]
    pub fn stream(&self) -> &str {
        self.config.get("stream").and_then(Value::as_str).unwrap_or_default()
    }

    /// The member as text, whatever its JSON type; empty when absent.
    #[must_use]
    pub fn text(&self, member: &str) -> String {
        match self.more.get(member).or_else(|| self.config.get(member)) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }
    }
}

/// A subscription in a file: all that a client without a node needs to receive. While the request waits for
/// its decision the file holds `secret` instead of `grant`. A credential: keep it as one.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Profile {
    /// Version of the flow protocol.
    #[serde(default)]
    pub flow: String,
    /// The stream's address.
    #[serde(default)]
    pub uri: String,
    /// The subscription's id.
    #[serde(default)]
    pub subscription: String,
    /// The credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// What reads the request and collects the grant, while it is not decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// When the grant ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// From when on it should be renewed, or where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew: Option<Value>,
    /// The stream's history when the profile was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<History>,
    /// Delivery URLs by protocol.
    #[serde(default)]
    pub endpoints: BTreeMap<String, Value>,
    /// Everything else.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Profile {
    /// The URL for a protocol (`STREAM`, `SSE`, …), whatever the case of its name.
    #[must_use]
    pub fn endpoint(&self, protocol: &str) -> Option<&str> {
        self.endpoints
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(protocol))
            .and_then(|(_, url)| url.as_str().or_else(|| url.get("url").and_then(Value::as_str)))
    }
}

/// One page of a list.
#[derive(Clone, Debug, Serialize)]
pub struct Page<T> {
    /// What it lists.
    pub items: Vec<T>,
    /// What to give as `after` for the next page; none at the end.
    pub after: Option<String>,
}
