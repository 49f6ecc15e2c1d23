//! The JSON of subscriptions: requests and imposed rules as callers send them, subscriptions as answers show
//! them and as decisions and snapshots keep them.
//!
//! Input is read strictly. Records are read by the same functions, so what is accepted today must be accepted by
//! every later version.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use weir_event::flow::{Position, StreamName, Time};
use weir_log::StreamId;

use super::descriptor::Pointer;
use super::filters::{self, Filters};
use super::members::{Members, bad};
use super::quantity::{Rate, duration};
use super::record::{needed, number, parsed};
use super::subscription::{
    Ack, By, Consumer, Form, GrantRef, Imposed, Origin, Protocol, Request, Start, Status, Subscription, Why,
};
use crate::error::{Code, Error};

/// The most bytes of a `reason`, `note` or `contact`.
pub const TEXT_BYTES_MAX: usize = 2000;

impl Request {
    /// Reads a subscription as its consumer sends it. An `id` is ignored: the node gives them.
    ///
    /// Errors: `unknown-member`, `bad-member`, `bad-name`, `bad-position`, `bad-filter`, `unsupported-dialect`,
    /// `unsupported-protocol`.
    pub fn parse(value: &Value) -> Result<Self, Error> {
        let known = [
            "id",
            "config",
            "filters",
            "types",
            "source",
            "protocol",
            "protocolsettings",
            "sink",
            "sinkcredential",
        ];
        let members = Members::of(value, "", &known)?;
        let protocol = protocol(&members)?;
        let config = members.get("config").ok_or_else(|| bad("config", "must be there, with a stream"))?;
        let config = Members::of(config, "config", &["stream", "from", "contact", "note", "ack"])?;
        Ok(Self {
            stream: stream(&config)?,
            from: start(&config, "from")?.unwrap_or(Start::Latest),
            contact: config.text("contact", TEXT_BYTES_MAX)?,
            note: config.text("note", TEXT_BYTES_MAX)?,
            ack: config
                .parsed("ack", |value| match value.as_str() {
                    Some("sent") => Ok(Ack::Sent),
                    Some("explicit") => Ok(Ack::Explicit),
                    _ => Err("must be \"explicit\" or \"sent\"".to_owned()),
                })?
                .unwrap_or_default(),
            filters: Arc::new(Filters::parse(&members)?),
            protocol,
        })
    }

    /// The request as it was sent, defaults included.
    #[must_use]
    pub fn to_json(&self) -> Map<String, Value> {
        let mut config = Map::new();
        config.insert("stream".into(), self.stream.as_str().into());
        config.insert("from".into(), self.from.to_string().into());
        for (name, text) in [("contact", &self.contact), ("note", &self.note)] {
            if let Some(text) = text.as_deref() {
                config.insert(name.into(), text.into());
            }
        }
        let ack = match self.ack {
            Ack::Explicit => "explicit",
            Ack::Sent => "sent",
        };
        config.insert("ack".into(), ack.into());
        let mut map = Map::new();
        map.insert("config".into(), Value::Object(config));
        self.filters.to_members(&mut map);
        map.insert("protocol".into(), self.protocol.name().into());
        map
    }

    /// Whether this surely asks for no more than `other`, which was accepted to begin after `start`.
    #[must_use]
    pub fn is_within(&self, other: &Self, start: Option<Origin>) -> bool {
        let from = match self.from {
            from if from == other.from => true,
            Start::Latest => true,
            Start::Position(position) => start.is_some_and(|start| position > start.after),
            Start::Earliest | Start::Time(_) => false,
        };
        from && self.stream == other.stream && self.filters.is_within(&other.filters)
    }
}

fn protocol(members: &Members<'_>) -> Result<Protocol, Error> {
    let named =
        members.parsed("protocol", |value| value.as_str().ok_or_else(|| "must be a string".to_owned()))?;
    let protocol = match named {
        // A sink without a protocol means the one that sinks are for.
        None if members.get("sink").is_some() => Err("HTTP"),
        None | Some("SSE") => Ok(Protocol::Sse),
        Some("STREAM") => Ok(Protocol::Stream),
        Some(other) => Err(other),
    };
    let protocol = protocol.map_err(|named| {
        let supported = Protocol::SUPPORTED;
        Error::new(
            Code::UnsupportedProtocol,
            format!("this node does not deliver by {named:?}; it does by {}", supported.join(" and ")),
        )
        .with("member", "protocol")
        .with("supported", supported.to_vec())
    })?;
    for name in ["sink", "sinkcredential"] {
        if members.get(name).is_some() {
            let what = format!("has no meaning with {}: the consumer opens the connection", protocol.name());
            return Err(bad(name, &what));
        }
    }
    if let Some(settings) = members.get("protocolsettings") {
        Members::of(settings, "protocolsettings", &[])?;
    }
    Ok(protocol)
}

fn stream(config: &Members<'_>) -> Result<StreamName, Error> {
    let text = config.text("stream", 1024)?.ok_or_else(|| bad("config.stream", "must name the stream"))?;
    text.parse().map_err(|error: weir_event::flow::Malformed| {
        Error::new(Code::BadName, error.to_string()).with("member", "config.stream")
    })
}

fn start(members: &Members<'_>, name: &str) -> Result<Option<Start>, Error> {
    let Some(value) = members.get(name) else { return Ok(None) };
    let start = match value {
        Value::Number(number) => number.as_u64().map(|number| Start::Position(Position(number))),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    start.map(Some).ok_or_else(|| {
        let path = members.at(name);
        let what = format!("{path} must be a position, an RFC 3339 time, \"earliest\" or \"latest\"");
        Error::new(Code::BadPosition, what).with("member", path)
    })
}

impl Imposed {
    /// Reads what a producer imposes; `expires` is a time or, counted from `now`, a duration.
    pub fn parse(value: &Value, now: Time) -> Result<Self, Error> {
        let members = Members::of(value, "", &["filters", "form", "rate", "from", "expires"])?;
        let form = members.get("form").map(Form::parse).transpose()?.flatten();
        Ok(Self {
            filters: filters::imposed(&members)?,
            form: form.map(Arc::new),
            rate: members.parsed("rate", Rate::parse)?,
            from: start(&members, "from")?,
            expires: expires(&members, now)?,
        })
    }

    /// What was imposed; empty if nothing.
    #[must_use]
    pub fn to_json(&self) -> Map<String, Value> {
        let mut map = Map::new();
        if let Some(filters) = &self.filters {
            filters.to_members(&mut map);
        }
        if let Some(form) = &self.form {
            map.insert("form".into(), form.to_json());
        }
        if let Some(rate) = self.rate {
            map.insert("rate".into(), rate.to_string().into());
        }
        if let Some(from) = self.from {
            map.insert("from".into(), from.to_string().into());
        }
        if let Some(expires) = self.expires {
            map.insert("expires".into(), json!(expires));
        }
        map
    }
}

/// The member `expires`: an RFC 3339 time, or a duration counted from `now`.
pub fn expires(members: &Members<'_>, now: Time) -> Result<Option<Time>, Error> {
    let expires = members.parsed("expires", |value| {
        if let Ok(length) = duration(value) {
            return Ok(Time(now.0.saturating_add(u64::try_from(length.as_millis()).unwrap_or(u64::MAX))));
        }
        let text = value.as_str().and_then(|text| text.parse::<Time>().ok());
        text.ok_or_else(|| "must be an RFC 3339 time, or a duration such as \"30d\"".to_owned())
    })?;
    match expires {
        Some(time) if time <= now => Err(bad(&members.at("expires"), "lies in the past")),
        other => Ok(other),
    }
}

impl Form {
    /// Reads a form; `None` for one that changes nothing.
    pub fn parse(value: &Value) -> Result<Option<Self>, Error> {
        let members = Members::of(value, "form", &["data", "keep", "remove", "hash"])?;
        let pointers = |name: &str| -> Result<Box<[Pointer]>, Error> {
            let texts = members.texts(name, 100, 256)?;
            let pointer = |(index, text): (usize, &str)| {
                Pointer::parse(text).map_err(|what| bad(&format!("{}[{index}]", members.at(name)), &what))
            };
            texts.iter().map(AsRef::as_ref).enumerate().map(pointer).collect()
        };
        let data = members
            .parsed("data", |value| value.as_bool().ok_or_else(|| "must be true or false".to_owned()))?;
        let form = Self {
            data: data.unwrap_or(true),
            keep: pointers("keep")?,
            remove: pointers("remove")?,
            hash: pointers("hash")?,
        };
        Ok((!form.data || form.looks_inside()).then_some(form))
    }

    /// Whether any rule is about members of the data, so that it must be JSON.
    #[must_use]
    pub fn looks_inside(&self) -> bool {
        !(self.keep.is_empty() && self.remove.is_empty() && self.hash.is_empty())
    }

    fn to_json(&self) -> Value {
        let mut map = Map::new();
        if !self.data {
            map.insert("data".into(), false.into());
        }
        for (name, list) in [("keep", &self.keep), ("remove", &self.remove), ("hash", &self.hash)] {
            if !list.is_empty() {
                map.insert(
                    name.into(),
                    list.iter().map(|pointer| Value::from(pointer.to_string())).collect(),
                );
            }
        }
        Value::Object(map)
    }
}

impl Subscription {
    /// The subscription as its two sides see it: what was asked for, and what became of it. Cursor, lag, grant and
    /// profile are added by whoever answers.
    #[must_use]
    pub fn to_json(&self) -> Map<String, Value> {
        let mut map = self.request.to_json();
        map.shift_insert(0, "id".into(), self.id.to_string().into());
        map.insert("state".into(), self.status.name().into());
        let by = match self.status {
            Status::Suspended { producer: true, .. } => By::Producer,
            Status::Suspended { .. } => By::Consumer,
            _ => self.by,
        };
        map.insert("by".into(), by.name().into());
        if let Status::Closed(why) = self.status {
            map.insert("reason".into(), why.name().into());
        }
        if let Some(said) = self.reason.as_deref() {
            map.insert("detail".into(), said.into());
        }
        map.insert("consumer".into(), self.consumer.organization.as_deref().map_or(Value::Null, Value::from));
        map.insert("proof".into(), self.consumer.proof().into());
        map.insert("imposed".into(), Value::Object(self.imposed.to_json()));
        if let Some(wanted) = &self.wanted {
            map.insert("wanted".into(), Value::Object(wanted.to_json()));
        }
        map.insert("created".into(), json!(self.created));
        map.insert("changed".into(), json!(self.changed));
        if let Some(expires) = self.expires {
            map.insert("expires".into(), json!(expires));
        }
        map
    }

    /// The record in decisions and snapshots.
    #[must_use]
    pub fn to_record(&self) -> Value {
        let mut map = Map::new();
        let mut put = |name: &str, value: Value| {
            map.insert(name.to_owned(), value);
        };
        put("id", self.id.to_string().into());
        put("stream", self.stream.0.into());
        put(
            "consumer",
            json!({
                "organization": self.consumer.organization,
                "token": self.consumer.token.map(|token| token.to_string()),
                "own": self.consumer.own,
                "address": self.consumer.address.map(|address| address.to_string()),
            }),
        );
        put("request", Value::Object(self.request.to_json()));
        if let Some(wanted) = &self.wanted {
            put("wanted", Value::Object(wanted.to_json()));
        }
        put("state", self.status.name().into());
        match self.status {
            Status::Suspended { producer, consumer } => {
                put("suspended", json!({"producer": producer, "consumer": consumer}));
            }
            Status::Closed(why) => put("closed", why.name().into()),
            Status::Requested | Status::Accepted | Status::Active => {}
        }
        put("by", self.by.name().into());
        if let Some(reason) = self.reason.as_deref() {
            put("reason", reason.into());
        }
        put("policy", self.by_policy.into());
        put("imposed", Value::Object(self.imposed.to_json()));
        if let Some(start) = self.start {
            put("start", json!({"history": start.history, "after": start.after}));
        }
        if !self.grants.is_empty() {
            let grants = self.grants.iter();
            put("grants", grants.map(|grant| json!({"id": grant.id, "expires": grant.expires})).collect());
        }
        put("collected", self.collected.into());
        put("created", json!(self.created));
        put("changed", json!(self.changed));
        if let Some(expires) = self.expires {
            put("expires", json!(expires));
        }
        put("revision", json!(self.revision));
        put("terms", json!(self.terms));
        Value::Object(map)
    }

    /// Reads [`Subscription::to_record`].
    pub fn from_record(value: &Value) -> Result<Self, Error> {
        let known = [
            "id",
            "stream",
            "consumer",
            "request",
            "wanted",
            "state",
            "suspended",
            "closed",
            "by",
            "reason",
            "policy",
            "imposed",
            "start",
            "grants",
            "collected",
            "created",
            "changed",
            "expires",
            "revision",
            "terms",
        ];
        let members = Members::of(value, "subscription", &known)?;
        let record = |name: &str| members.get(name).ok_or_else(|| bad(&members.at(name), "must be there"));
        let truth = |name: &str| members.get(name).and_then(Value::as_bool).unwrap_or_default();
        let by = members.get("by").and_then(Value::as_str);
        let grants = members.get("grants").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let start = members.get("start").map(|value| -> Result<Origin, Error> {
            let start = Members::of(value, "subscription.start", &["history", "after"])?;
            Ok(Origin { history: needed(&start, "history")?, after: Position(number(&start, "after")?) })
        });
        Ok(Self {
            id: needed(&members, "id")?,
            stream: StreamId(number(&members, "stream")?),
            consumer: consumer(record("consumer")?)?,
            request: Arc::new(Request::parse(record("request")?)?),
            wanted: members.get("wanted").map(Request::parse).transpose()?.map(Arc::new),
            status: status(&members)?,
            by: By::ALL
                .into_iter()
                .find(|known| Some(known.name()) == by)
                .ok_or_else(|| bad("subscription.by", "is nobody"))?,
            reason: members.get("reason").and_then(Value::as_str).map(Box::from),
            by_policy: truth("policy"),
            // What has been imposed may have run out since: nothing lies in the past of the beginning.
            imposed: Arc::new(Imposed::parse(record("imposed")?, Time::default())?),
            start: start.transpose()?,
            grants: grants.iter().map(grant).collect::<Result<_, _>>()?,
            collected: truth("collected"),
            created: needed(&members, "created")?,
            changed: needed(&members, "changed")?,
            expires: parsed(&members, "expires")?,
            revision: Position(number(&members, "revision")?),
            terms: Position(number(&members, "terms")?),
        })
    }

    /// Ends it, in the fold and in planning alike. Its grants stay known, though they open nothing any more: who
    /// holds one is told what became of the subscription.
    pub(super) fn close(&mut self, why: Why, by: By, reason: Option<Box<str>>, when: Time) {
        self.status = Status::Closed(why);
        self.by = by;
        self.reason = reason;
        self.wanted = None;
        self.changed = when;
    }
}

fn consumer(value: &Value) -> Result<Consumer, Error> {
    let members = Members::of(value, "subscription.consumer", &["organization", "token", "own", "address"])?;
    Ok(Consumer {
        organization: members.text("organization", 253)?,
        token: parsed(&members, "token")?,
        own: members.get("own").and_then(Value::as_bool).unwrap_or_default(),
        address: parsed(&members, "address")?,
    })
}

fn grant(value: &Value) -> Result<GrantRef, Error> {
    let members = Members::of(value, "subscription.grants", &["id", "expires"])?;
    Ok(GrantRef { id: number(&members, "id")?, expires: needed(&members, "expires")? })
}

fn status(members: &Members<'_>) -> Result<Status, Error> {
    Ok(match members.get("state").and_then(Value::as_str) {
        Some("requested") => Status::Requested,
        Some("accepted") => Status::Accepted,
        Some("active") => Status::Active,
        Some("suspended") => {
            let by = members.get("suspended").unwrap_or(&Value::Null);
            let side = |name: &str| by.get(name).and_then(Value::as_bool).unwrap_or_default();
            Status::Suspended { producer: side("producer"), consumer: side("consumer") }
        }
        Some("closed") => {
            let why = members.get("closed").and_then(Value::as_str);
            let why = Why::ALL.into_iter().find(|known| Some(known.name()) == why);
            Status::Closed(why.ok_or_else(|| bad("subscription.closed", "is no reason"))?)
        }
        _ => return Err(bad("subscription.state", "is no state")),
    })
}
