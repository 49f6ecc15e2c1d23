//! Asking for a stream, and the producer's decision.
//!
//! A consumer asks ([`Client::ask`]), waits for the decision ([`Subscription::decided`]) and receives
//! ([`Subscription::deliver`], see `delivery`). A [`Subscription`] can be written into a file between any two of
//! these steps ([`Subscription::profile`]) and taken up again by another process ([`Subscription::from_profile`]).
//!
//! The producer's side of the same relationship: [`Client::requests`] and [`Client::decide`].

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::sync::RwLock;
use weir_event::flow::{Position, StreamName, Time};

use crate::address::Address;
use crate::backoff::Backoff;
use crate::client::Client;
use crate::delivery::{self, Delivery};
use crate::model::{Page, Profile, Relation, State};
use crate::{Error, Kind};

/// What a consumer asks for.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// Where to begin: a position, an RFC 3339 time, `earliest` or `latest` (the default).
    pub from: Option<String>,
    /// Filters of the CloudEvents Subscriptions API, all of which must hold.
    pub filters: Vec<Value>,
    /// Whom the producer may write to. Needed where the request carries no credential.
    pub contact: Option<String>,
    /// Why the stream is wanted: for the person who decides.
    pub note: Option<String>,
}

/// A consumer's relationship to a stream, on the consumer's side.
#[derive(Debug)]
pub struct Subscription {
    /// Carries the consumer's own token if it has one, never the grant.
    client: Client,
    profile: RwLock<Profile>,
}

/// The longest wait asked of a node at a time.
const WAIT: Duration = Duration::from_secs(60);
/// A node that answers a wait at once is not asked more often than this.
const PAUSE: Duration = Duration::from_secs(2);

impl Client {
    /// Asks for a stream of this node. The answer says whether a person must decide first.
    pub async fn ask(&self, stream: &StreamName, ask: Ask) -> Result<(Subscription, Relation), Error> {
        let mut config = Map::new();
        config.insert("stream".into(), stream.as_str().into());
        for (name, value) in [("from", ask.from), ("contact", ask.contact), ("note", ask.note)] {
            config.extend(value.map(|value| (name.to_owned(), Value::from(value))));
        }
        let mut body = json!({"config": config, "protocol": "STREAM"});
        if !ask.filters.is_empty() {
            body["filters"] = ask.filters.into();
        }
        let request = self.request(Method::POST, "/subscriptions").json(&body);
        let relation: Relation = self.json(&format!("ask for stream {stream}"), request).await?;
        let profile = Profile {
            flow: "1.0".into(),
            uri: format!("{}/streams/{stream}", self.node()),
            subscription: relation.id.clone(),
            secret: relation.secret.clone(),
            ..Profile::default()
        };
        let subscription = Subscription { client: self.clone(), profile: RwLock::new(profile) };
        subscription.take(&relation).await;
        Ok((subscription, relation))
    }

    /// One page of the subscriptions this caller may see: for an owner, all of its node. `stream` and `state`
    /// narrow it.
    pub async fn requests(
        &self,
        stream: Option<&StreamName>,
        state: Option<&str>,
        limit: Option<u32>,
        after: Option<&str>,
    ) -> Result<Page<Relation>, Error> {
        let mut request = self.request(Method::GET, "/subscriptions");
        if let Some(stream) = stream {
            request = request.query(&[("stream", stream.as_str())]);
        }
        if let Some(state) = state {
            request = request.query(&[("state", state)]);
        }
        self.page("list subscriptions", "subscriptions", request, limit, after).await
    }

    /// One subscription.
    pub async fn relation(&self, id: &str) -> Result<Relation, Error> {
        let path = format!("/subscriptions/{}", checked(id)?);
        self.json(&format!("read subscription {id}"), self.request(Method::GET, &path)).await
    }

    /// The producer's decision: `accept`, `reject`, `suspend`, `resume` or `revoke`, with `reason`, and for an
    /// acceptance what is imposed (`expires`, `rate`, `filters`, `form`, `from`).
    pub async fn decide(
        &self,
        id: &str,
        decision: &str,
        terms: &Map<String, Value>,
    ) -> Result<Relation, Error> {
        let path = format!("/subscriptions/{}/{decision}", checked(id)?);
        self.json(&format!("{decision} subscription {id}"), self.request(Method::POST, &path).json(terms))
            .await
    }

    /// Events exactly as this consumer would get them, as JSON.
    pub async fn preview(&self, id: &str, limit: u32) -> Result<Vec<Value>, Error> {
        let request = self
            .request(Method::GET, &format!("/subscriptions/{}/preview", checked(id)?))
            .query(&[("limit", limit)]);
        Ok(self.page("preview a subscription", "events", request, None, None).await?.items)
    }
}

impl Subscription {
    /// Takes up a subscription from what [`Subscription::profile`] gave an earlier process. `token` is the
    /// consumer's own credential, where it asked with one.
    pub fn from_profile(profile: Profile, token: Option<&str>) -> Result<Self, Error> {
        if profile.subscription.is_empty() {
            return Err(Error::new(Kind::Invalid, "the profile names no subscription"));
        }
        checked(&profile.subscription)?;
        let node = profile
            .endpoint("STREAM")
            .and_then(|url| url.split_once("/subscriptions/"))
            .map(|(node, _)| node.to_owned());
        let node = match node {
            Some(node) => node,
            None => match profile.uri.parse::<Address>()?.place {
                crate::address::Place::Node(node) | crate::address::Place::Resolved(node) => node,
                crate::address::Place::Here => {
                    return Err(Error::new(
                        Kind::Invalid,
                        "the profile names neither an endpoint nor a whole URI",
                    ));
                }
            },
        };
        Ok(Self { client: Client::new(&node, token)?, profile: RwLock::new(profile) })
    }

    /// What a file needs to hold to go on from here. Holds a credential.
    pub async fn profile(&self) -> Profile {
        self.profile.read().await.clone()
    }

    /// Waits until the producer has decided, through outages of up to `patience` each, at most `longest` in all
    /// (forever if none). What comes back is still `requested` only when `longest` has passed.
    ///
    /// # Errors
    /// `Closed` with the reason if the request was rejected or ended otherwise.
    pub async fn decided(&self, longest: Option<Duration>, patience: Duration) -> Result<Relation, Error> {
        let begun = Instant::now();
        let mut backoff = Backoff::new(patience);
        loop {
            let left = longest.map(|longest| longest.saturating_sub(begun.elapsed()));
            let asked = Instant::now();
            match self.read(left.map_or(WAIT, |left| left.min(WAIT))).await {
                Ok(relation) => match relation.state {
                    State::Requested => {
                        if left.is_some_and(|left| left.is_zero()) {
                            return Ok(relation);
                        }
                        backoff.reset();
                        let pause = PAUSE.saturating_sub(asked.elapsed());
                        tokio::time::sleep(left.map_or(pause, |left| left.min(pause))).await;
                    }
                    State::Closed => return Err(closed(&relation)),
                    _ => return Ok(relation),
                },
                Err(error) => backoff.wait(error).await?,
            }
        }
    }

    /// Reads where the subscription stands, and keeps the grant if this is the answer that carries it. Waits up
    /// to `wait` while it is `requested`.
    pub async fn read(&self, wait: Duration) -> Result<Relation, Error> {
        let (id, credential) = {
            let profile = self.profile.read().await;
            (profile.subscription.clone(), profile.secret.clone().or_else(|| profile.grant.clone()))
        };
        let client = match (&credential, self.client.has_token()) {
            (Some(credential), false) => self.client.with_token(Some(credential)),
            _ => self.client.clone(),
        };
        let mut request = client.request(Method::GET, &format!("/subscriptions/{id}"));
        if !wait.is_zero() {
            request = request.header("Prefer", format!("wait={}", wait.as_secs().max(1)));
        }
        let what = format!("read subscription {id}");
        let response = client.call(&what, request.timeout(wait + Duration::from_secs(30))).await?;
        let relation: Relation = client.read_json(&what, response).await?;
        self.take(&relation).await;
        Ok(relation)
    }

    /// Whether there is a credential to receive with.
    pub async fn has_grant(&self) -> bool {
        self.profile.read().await.grant.is_some()
    }

    /// Renews the grant; the old one keeps working for a while.
    pub async fn renew(&self) -> Result<(), Error> {
        let (client, id) = self.granted().await;
        let request = client.request(Method::POST, &format!("/subscriptions/{id}/grant"));
        let answer: Profile = client.json(&format!("renew the grant of subscription {id}"), request).await?;
        let mut profile = self.profile.write().await;
        if answer.grant.is_some() {
            profile.grant = answer.grant;
            profile.expires = answer.expires.or(profile.expires.take());
            profile.renew = answer.renew.or(profile.renew.take());
        }
        Ok(())
    }

    /// Begins to receive: from the node's cursor, or from `from` if given. Through cuts and restarts, each for
    /// up to `patience`.
    pub async fn deliver(&self, from: Option<String>, patience: Duration) -> Result<Delivery, Error> {
        if self.is_due_for_renewal().await {
            self.renew().await?;
        }
        let (client, id) = self.granted().await;
        let url = match self.profile.read().await.endpoint("STREAM") {
            Some(url) => url.to_owned(),
            None => format!("/subscriptions/{id}/events"),
        };
        Ok(Delivery::new(client, delivery::Source { url, filter: None, from }, patience))
    }

    /// Acknowledges everything up to `position`: the node's cursor moves there, and a later connection without
    /// `from` begins behind it.
    pub async fn ack(&self, position: Position) -> Result<(), Error> {
        let (client, id) = self.granted().await;
        let request =
            client.request(Method::POST, &format!("/subscriptions/{id}/ack")).json(&json!({"ack": position}));
        client.json::<Value>(&format!("acknowledge position {position}"), request).await.map(drop)
    }

    /// Ends the subscription.
    pub async fn cancel(&self) -> Result<(), Error> {
        let (client, id) = self.granted().await;
        let request = client.request(Method::DELETE, &format!("/subscriptions/{id}"));
        client.call(&format!("cancel subscription {id}"), request.timeout(WAIT)).await.map(drop)
    }

    /// The client that carries the grant (or, before it is there, whatever else opens this subscription).
    async fn granted(&self) -> (Client, String) {
        let profile = self.profile.read().await;
        let client = match profile.grant.as_ref().or(profile.secret.as_ref()) {
            Some(grant) => self.client.with_token(Some(grant)),
            None => self.client.clone(),
        };
        (client, profile.subscription.clone())
    }

    /// A grant that says from when on it can be renewed is renewed then.
    async fn is_due_for_renewal(&self) -> bool {
        let profile = self.profile.read().await;
        let due = profile.renew.as_ref().and_then(Value::as_str).and_then(|text| text.parse::<Time>().ok());
        due.is_some_and(|due| due <= now())
    }

    /// Keeps what an answer carries only once.
    async fn take(&self, relation: &Relation) {
        let mut profile = self.profile.write().await;
        if let Some(fresh) = &relation.profile {
            let kept = (profile.grant.take(), profile.secret.take());
            *profile = fresh.clone();
            profile.grant = profile.grant.take().or(kept.0);
            profile.secret = profile.secret.take().or(kept.1);
        }
        if let Some(grant) = &relation.grant {
            profile.grant = Some(grant.clone());
        }
        if profile.grant.is_some() {
            // Its one purpose is fulfilled.
            profile.secret = None;
        }
    }
}

/// The error a closed subscription stands for.
fn closed(relation: &Relation) -> Error {
    let reason = relation.reason.clone().unwrap_or_else(|| "closed".into());
    let said = relation.text("detail");
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    Error::new(Kind::Closed, format!("the subscription to {} has ended: {reason}{said}", relation.stream()))
}

/// An id is about to become part of a path.
fn checked(id: &str) -> Result<&str, Error> {
    if !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        return Ok(id);
    }
    Err(Error::new(Kind::Invalid, format!("{id:?} is not the id of a subscription")))
}

fn now() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
