//! What a stream says of itself.
//!
//! A descriptor is read strictly: every member is known, of its type and within its bounds, or the whole is
//! refused with the member's path. What is read has one canonical JSON form, [`Descriptor::to_json`], in which
//! answers, decisions and snapshots hold it and onto which a merge patch (RFC 7396) is applied; a member patched
//! to `null` returns to its default.
//!
//! A node may hold a hundred thousand of these, so texts are boxed and rare members cost a word when absent.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value, json};
use weir_log::{Dedupe, Durability, Retention};

use super::members::{Members, bad};
use super::quantity::{duration, duration_text, size, size_text};
use crate::error::Error;

/// How a stream may be read, and by whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// The owner's own readers.
    #[default]
    Private,
    /// The organizations listed in `allow`, accepted at once.
    Allow,
    /// Whoever the producer accepts.
    Approval,
    /// Anyone, also without a name.
    Open,
}

impl Access {
    /// All of them, from the narrowest to the widest.
    pub const ALL: [Access; 4] = [Access::Private, Access::Allow, Access::Approval, Access::Open];

    /// The name in a descriptor.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Access::Private => "private",
            Access::Allow => "allow",
            Access::Approval => "approval",
            Access::Open => "open",
        }
    }
}

/// What a stream says of itself; defaults where it says nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Descriptor {
    /// One line for people.
    pub title: Option<Box<str>>,
    /// More for people.
    pub description: Option<Box<str>>,
    /// The event types to expect. Not enforced.
    pub types: Box<[Box<str>]>,
    /// The media type of `data` to expect. Not enforced.
    pub contenttype: Option<Box<str>>,
    /// Who may read.
    pub access: Access,
    /// The organizations that [`Access::Allow`] means.
    pub allow: Box<[Box<str>]>,
    /// When events go.
    pub retention: Retention,
    /// What an acknowledgement promises.
    pub durability: Durability,
    /// How long ids are remembered; `None`: every event is stored, also a repeated one.
    pub dedupe: Option<Dedupe>,
    /// Words to find it by.
    pub tags: Box<[Box<str>]>,
    /// Where it is kept.
    pub region: Option<Box<str>>,
    /// Its names elsewhere.
    pub aliases: Box<[Alias]>,
    /// Web origins whose pages may read it.
    pub origins: Box<[Box<str>]>,
    /// How a plain JSON body becomes an event; without it plain bodies are refused.
    pub plain: Option<Box<Plain>>,
    /// Attributes copied from JSON data at admission.
    pub lift: Box<[Lift]>,
}

/// A stream's name in another protocol, where its own does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The protocol: `kafka`, `mqtt` or `nats`.
    pub protocol: Box<str>,
    /// The name there.
    pub name: Box<str>,
}

/// How a plain JSON body, Kafka record, MQTT or NATS message becomes an event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plain {
    /// The event's type; absent: the message must bring it.
    pub r#type: Option<Member>,
    /// The event's source; absent: the message must bring it.
    pub source: Option<Member>,
    /// The event's id; absent: the node gives a random one.
    pub id: Option<Pointer>,
    /// The event's time.
    pub time: Option<Pointer>,
    /// The event's subject.
    pub subject: Option<Member>,
    /// The event's key.
    pub partitionkey: Option<Member>,
}

/// Where an attribute's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    /// The same for every event.
    Text(Box<str>),
    /// From the data.
    Data(Pointer),
}

/// An attribute copied from JSON data, unless the creator set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lift {
    /// The attribute's name.
    pub attribute: Box<str>,
    /// Where in the data its value stands.
    pub pointer: Pointer,
}

/// A JSON pointer (RFC 6901), split once into its unescaped tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    tokens: Box<[Box<str>]>,
}

impl Pointer {
    /// The most tokens a pointer may have: it is walked for every event.
    pub const DEPTH_MAX: usize = 16;

    /// Reads a pointer; the empty one, which means the whole data, is refused.
    pub fn parse(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "must be a JSON pointer such as \"/order/id\"";
        let rest = text.strip_prefix('/').ok_or(EXPECTED)?;
        let mut tokens = Vec::new();
        for raw in rest.split('/') {
            let mut escapes = raw.split('~');
            let mut token = escapes.next().unwrap_or_default().to_owned();
            for part in escapes {
                let (escaped, tail) = match part.split_at_checked(1) {
                    Some(("0", tail)) => ('~', tail),
                    Some(("1", tail)) => ('/', tail),
                    _ => return Err(EXPECTED.to_owned()),
                };
                token.push(escaped);
                token.push_str(tail);
            }
            tokens.push(token.into_boxed_str());
        }
        if tokens.len() > Self::DEPTH_MAX || text.len() > 256 {
            return Err(format!("has at most {} tokens and 256 bytes", Self::DEPTH_MAX));
        }
        Ok(Self { tokens: tokens.into_boxed_slice() })
    }

    /// The unescaped reference tokens, from the outermost in.
    #[must_use]
    pub fn tokens(&self) -> &[Box<str>] {
        &self.tokens
    }

    /// What the pointer names in a JSON value.
    #[must_use]
    pub fn find<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.tokens.iter().try_fold(value, |value, token| match value {
            Value::Object(map) => map.get(token.as_ref()),
            Value::Array(list) if token.as_ref() == "0" || !token.starts_with('0') => {
                token.parse::<usize>().ok().and_then(|index| list.get(index))
            }
            _ => None,
        })
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for token in &self.tokens {
            write!(f, "/{}", token.replace('~', "~0").replace('/', "~1"))?;
        }
        Ok(())
    }
}

/// Members that a descriptor may have, in the order of its canonical form.
pub const MEMBERS: [&str; 15] = [
    "title",
    "description",
    "types",
    "contenttype",
    "access",
    "allow",
    "retention",
    "durability",
    "dedupe",
    "tags",
    "region",
    "aliases",
    "origins",
    "plain",
    "lift",
];

/// Members that only answers have.
const ANSWERED: [&str; 9] = ["name", "uri", "owner", "history", "first", "last", "bytes", "created", "rate"];

const DAY: Duration = Duration::from_secs(86_400);
const DEDUPE: Dedupe = Dedupe { age: Duration::from_secs(120), count: 1_000_000 };

impl Default for Descriptor {
    /// Private, kept seven days, synced before it is acknowledged, ids remembered for two minutes.
    fn default() -> Self {
        Self {
            title: None,
            description: None,
            types: Box::default(),
            contenttype: None,
            access: Access::Private,
            allow: Box::default(),
            retention: Retention { age: Some(7 * DAY), bytes: None, count: None },
            durability: Durability::Fsync,
            dedupe: Some(DEDUPE),
            tags: Box::default(),
            region: None,
            aliases: Box::default(),
            origins: Box::default(),
            plain: None,
            lift: Box::default(),
        }
    }
}

impl Descriptor {
    /// The most bytes of a descriptor's canonical JSON form.
    pub const BYTES_MAX: usize = 64 * 1024;

    /// Reads a descriptor as its owner sends it.
    ///
    /// Errors: `unknown-member` with the nearest, `bad-member` with what is expected.
    pub fn parse(value: &Value) -> Result<Self, Error> {
        if let Some(map) = value.as_object()
            && let Some(name) = map.keys().find(|name| ANSWERED.contains(&name.as_str()))
        {
            return Err(bad(name, "is set by the node; leave it out"));
        }
        let descriptor = Self::from_stored(value)?;
        if descriptor.to_json().to_string().len() > Self::BYTES_MAX {
            return Err(bad("", "has at most 65536 bytes").with("limit", Self::BYTES_MAX));
        }
        Ok(descriptor)
    }

    /// Reads [`Descriptor::to_stored`].
    pub fn from_stored(value: &Value) -> Result<Self, Error> {
        let members = Members::of(value, "", &MEMBERS)?;
        Ok(Self {
            title: members.text("title", 300)?,
            description: members.text("description", 16 * 1024)?,
            types: members.texts("types", 200, 256)?,
            contenttype: members.parsed("contenttype", media_type)?,
            access: members.parsed("access", access)?.unwrap_or_default(),
            allow: organizations(&members)?,
            retention: retention(&members)?,
            durability: members.parsed("durability", durability)?.unwrap_or_default(),
            dedupe: dedupe(&members)?,
            tags: members.texts("tags", 50, 64)?,
            region: members.text("region", 64)?,
            aliases: aliases(&members)?,
            origins: origins(&members)?,
            plain: members
                .get("plain")
                .map(|value| plain(value, &members.at("plain")))
                .transpose()?
                .map(Box::new),
            lift: lift(&members)?,
        })
    }

    /// This descriptor changed by a merge patch (RFC 7396).
    pub fn patched(&self, patch: &Value) -> Result<Self, Error> {
        let mut value = self.to_json();
        if !patch.is_object() {
            return Err(bad("", "must be an object of the members to change"));
        }
        merge(&mut value, patch, 0)?;
        Self::parse(&value)
    }

    /// The canonical JSON form: everything that holds, defaults included, in the order of [`MEMBERS`].
    #[must_use]
    pub fn to_json(&self) -> Value {
        Value::Object(self.members(None))
    }

    /// The short form in decisions and snapshots: what differs from the defaults. So a default is part of the
    /// state's format: changing one needs a new fold version that writes the old one out.
    #[must_use]
    pub fn to_stored(&self) -> Value {
        Value::Object(self.members(Some(&Self::default())))
    }

    /// The members, without those in which this agrees with `base`.
    fn members(&self, base: Option<&Self>) -> Map<String, Value> {
        let mut map = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                map.insert(name.to_owned(), value);
            }
        };
        let text = |text: &Option<Box<str>>| text.as_deref().map(Value::from);
        let list = |list: &[Box<str>]| {
            (!list.is_empty())
                .then(|| Value::Array(list.iter().map(|entry| Value::from(entry.as_ref())).collect()))
        };
        put("title", text(&self.title));
        put("description", text(&self.description));
        put("types", list(&self.types));
        put("contenttype", text(&self.contenttype));
        let differs = |differs: fn(&Self, &Self) -> bool| base.is_none_or(|base| differs(self, base));
        put("access", differs(|a, b| a.access != b.access).then(|| self.access.name().into()));
        put("allow", list(&self.allow));
        put("retention", differs(|a, b| a.retention != b.retention).then(|| retention_json(&self.retention)));
        put(
            "durability",
            differs(|a, b| a.durability != b.durability).then(|| durability_name(self.durability).into()),
        );
        put("dedupe", differs(|a, b| a.dedupe != b.dedupe).then(|| dedupe_json(self.dedupe)));
        put("tags", list(&self.tags));
        put("region", text(&self.region));
        let pairs = |pairs: &mut dyn Iterator<Item = (&str, Value)>| {
            let map: Map<_, _> = pairs.map(|(name, value)| (name.to_owned(), value)).collect();
            (!map.is_empty()).then_some(Value::Object(map))
        };
        put(
            "aliases",
            pairs(&mut self.aliases.iter().map(|alias| (&*alias.protocol, (&*alias.name).into()))),
        );
        put("origins", list(&self.origins));
        put("plain", self.plain.as_deref().map(Plain::to_json));
        put(
            "lift",
            pairs(&mut self.lift.iter().map(|lift| (&*lift.attribute, lift.pointer.to_string().into()))),
        );
        map
    }
}

impl Plain {
    fn to_json(&self) -> Value {
        let pointer = |pointer: &Pointer| json!({"data": pointer.to_string()});
        let member = |member: &Option<Member>| {
            member.as_ref().map(|member| match member {
                Member::Text(text) => Value::from(text.as_ref()),
                Member::Data(at) => pointer(at),
            })
        };
        let members = [
            ("type", member(&self.r#type)),
            ("source", member(&self.source)),
            ("id", self.id.as_ref().map(pointer)),
            ("time", self.time.as_ref().map(pointer)),
            ("subject", member(&self.subject)),
            ("partitionkey", member(&self.partitionkey)),
        ];
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

/// RFC 7396. Depth is bounded: a patch comes from outside.
fn merge(target: &mut Value, patch: &Value, depth: usize) -> Result<(), Error> {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    if depth > 8 {
        return Err(bad("", "is nested too deep for a descriptor"));
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return Ok(()) };
    for (name, change) in patch {
        if change.is_null() {
            target.shift_remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), change, depth + 1)?;
        }
    }
    Ok(())
}

fn access(value: &Value) -> Result<Access, String> {
    Access::ALL
        .into_iter()
        .find(|access| value == access.name())
        .ok_or_else(|| "must be \"open\", \"approval\", \"allow\" or \"private\"".to_owned())
}

fn durability(value: &Value) -> Result<Durability, String> {
    match value.as_str() {
        Some("fsync") => Ok(Durability::Fsync),
        Some("written") => Ok(Durability::Written),
        _ => Err("must be \"fsync\" or \"written\"".to_owned()),
    }
}

/// The name of a durability in descriptors and answers.
#[must_use]
pub fn durability_name(durability: Durability) -> &'static str {
    match durability {
        Durability::Fsync => "fsync",
        Durability::Written => "written",
    }
}

fn retention(members: &Members<'_>) -> Result<Retention, Error> {
    let Some(value) = members.get("retention") else { return Ok(Descriptor::default().retention) };
    let members = Members::of(value, "retention", &["age", "bytes", "count"])?;
    let age = members.parsed("age", |value| match value.as_str() {
        Some("forever") => Ok(None),
        _ => match duration(value) {
            Ok(age) if age < Duration::from_secs(1) => Err("must be at least \"1s\"".to_owned()),
            Ok(age) => Ok(Some(age)),
            Err(what) => Err(format!("{what}, or \"forever\"")),
        },
    })?;
    let at_least = |least: u64, what: &'static str| {
        move |value: u64| if value < least { Err(format!("must be at least {what}")) } else { Ok(value) }
    };
    Ok(Retention {
        age: age.unwrap_or(Some(7 * DAY)),
        bytes: members.parsed("bytes", |value| size(value).and_then(at_least(1, "1")))?,
        count: members.parsed("count", |value| {
            value
                .as_u64()
                .ok_or_else(|| "must be a whole number of events".to_owned())
                .and_then(at_least(1, "1"))
        })?,
    })
}

fn retention_json(retention: &Retention) -> Value {
    let mut map = Map::new();
    map.insert("age".into(), retention.age.map_or("forever".to_owned(), duration_text).into());
    if let Some(bytes) = retention.bytes {
        map.insert("bytes".into(), size_text(bytes).into());
    }
    if let Some(count) = retention.count {
        map.insert("count".into(), count.into());
    }
    Value::Object(map)
}

fn dedupe(members: &Members<'_>) -> Result<Option<Dedupe>, Error> {
    let Some(value) = members.get("dedupe") else { return Ok(Some(DEDUPE)) };
    if *value == Value::Bool(false) {
        return Ok(None);
    }
    let members = Members::of(value, "dedupe", &["age", "count"]).map_err(|error| {
        if value.is_object() { error } else { bad("dedupe", "must be an object, or false") }
    })?;
    let age = members.parsed("age", |value| match duration(value)? {
        age if age > 30 * DAY => Err("must be at most \"30d\"".to_owned()),
        age if age < Duration::from_secs(1) => Err("must be at least \"1s\"".to_owned()),
        age => Ok(age),
    })?;
    let count = members.parsed("count", |value| match value.as_u64() {
        Some(count @ 1..=100_000_000) => Ok(count),
        _ => Err("must be a whole number between 1 and 100000000".to_owned()),
    })?;
    Ok(Some(Dedupe { age: age.unwrap_or(DEDUPE.age), count: count.unwrap_or(DEDUPE.count) }))
}

fn dedupe_json(dedupe: Option<Dedupe>) -> Value {
    dedupe
        .map_or(Value::Bool(false), |dedupe| json!({"age": duration_text(dedupe.age), "count": dedupe.count}))
}

fn media_type(value: &Value) -> Result<Box<str>, String> {
    const EXPECTED: &str = "must be a media type such as \"application/json\"";
    let text = value.as_str().filter(|text| text.len() <= 256).ok_or(EXPECTED)?;
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    let token = |token: &str| {
        !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
    };
    match essence.split_once('/') {
        Some((kind, sub)) if token(kind) && token(sub) && text.bytes().all(|b| (0x20..0x7f).contains(&b)) => {
            Ok(text.into())
        }
        _ => Err(EXPECTED.to_owned()),
    }
}

fn organizations(members: &Members<'_>) -> Result<Box<[Box<str>]>, Error> {
    let list = members.texts("allow", 1000, 253)?;
    for (index, name) in list.iter().enumerate() {
        organization(name).map_err(|what| bad(&format!("{}[{index}]", members.at("allow")), &what))?;
    }
    Ok(list)
}

/// Checks that a text is an organization: a domain name in lower case.
pub fn organization(name: &str) -> Result<(), String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        Ok(())
    } else {
        Err("must be a domain name in lower case, such as \"acme.example\"".to_owned())
    }
}

fn aliases(members: &Members<'_>) -> Result<Box<[Alias]>, Error> {
    const PROTOCOLS: [&str; 3] = ["kafka", "mqtt", "nats"];
    let Some(value) = members.get("aliases") else { return Ok(Box::default()) };
    let inner = Members::of(value, "aliases", &PROTOCOLS)?;
    let mut aliases = Vec::new();
    for protocol in PROTOCOLS {
        if let Some(name) = inner.text(protocol, 249)? {
            aliases.push(Alias { protocol: protocol.into(), name });
        }
    }
    Ok(aliases.into_boxed_slice())
}

fn origins(members: &Members<'_>) -> Result<Box<[Box<str>]>, Error> {
    let list = members.texts("origins", 100, 300)?;
    for (index, origin) in list.iter().enumerate() {
        let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        let fine = host.is_some_and(|host| {
            !host.is_empty()
                && host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]".contains(&b))
        });
        if !fine && **origin != *"*" {
            let path = format!("{}[{index}]", members.at("origins"));
            return Err(bad(&path, "must be a web origin such as \"https://app.acme.example\", or \"*\""));
        }
    }
    Ok(list)
}

fn plain(value: &Value, path: &str) -> Result<Plain, Error> {
    let members = Members::of(value, path, &["type", "source", "id", "time", "subject", "partitionkey"])?;
    let pointer = |name: &str| match member(&members, name)? {
        Some(Member::Data(pointer)) => Ok(Some(pointer)),
        Some(Member::Text(_)) => {
            Err(bad(&members.at(name), "must be taken from the data, as {\"data\": \"/id\"}"))
        }
        None => Ok(None),
    };
    let source = member(&members, "source")?;
    Ok(Plain {
        r#type: member(&members, "type")?,
        source,
        id: pointer("id")?,
        time: pointer("time")?,
        subject: member(&members, "subject")?,
        partitionkey: member(&members, "partitionkey")?,
    })
}

fn member(members: &Members<'_>, name: &str) -> Result<Option<Member>, Error> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(_)) => Ok(members.text(name, 512)?.map(Member::Text)),
        Some(value @ Value::Object(_)) => {
            let inner = Members::of(value, &members.at(name), &["data"])?;
            let path = inner.at("data");
            let text = inner.text("data", 256)?.ok_or_else(|| bad(&path, "must be a JSON pointer"))?;
            Pointer::parse(&text).map(|pointer| Some(Member::Data(pointer))).map_err(|what| bad(&path, &what))
        }
        Some(_) => {
            Err(bad(&members.at(name), "must be a string, or taken from the data as {\"data\": \"/id\"}"))
        }
    }
}

fn lift(members: &Members<'_>) -> Result<Box<[Lift]>, Error> {
    let Some(value) = members.get("lift") else { return Ok(Box::default()) };
    let map = value.as_object().ok_or_else(|| bad("lift", "must map attribute names to JSON pointers"))?;
    if map.len() > 32 {
        return Err(bad("lift", "has at most 32 attributes").with("limit", 32));
    }
    let mut lifts = Vec::with_capacity(map.len());
    for (attribute, pointer) in map {
        let path = format!("lift.{attribute}");
        let letters = attribute.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if attribute.is_empty() || attribute.len() > 20 || !letters {
            return Err(bad(&path, "is no attribute name: 1 to 20 of a-z and 0-9"));
        }
        if matches!(
            attribute.as_str(),
            "id" | "source" | "type" | "specversion" | "data" | "flowposition" | "flowtime"
        ) {
            return Err(bad(&path, "is always set by the event's creator or the node and can not be lifted"));
        }
        let pointer =
            pointer.as_str().ok_or_else(|| bad(&path, "must be a JSON pointer such as \"/partner_id\""))?;
        let pointer = Pointer::parse(pointer).map_err(|what| bad(&path, &what))?;
        lifts.push(Lift { attribute: attribute.as_str().into(), pointer });
    }
    Ok(lifts.into_boxed_slice())
}
