//! Planning: whether a command may be decided, and what the decision then says.
//!
//! A plan is made against the state that all decisions before it left, while no other can be made; what it says
//! is what will be written. Planning changes nothing itself. It looks at the state, at who asks, at the time and
//! at the log's present heads, and it draws random numbers: all that the fold may not do is done here and stands
//! in the decision.

pub(super) mod streams;
pub(super) mod subscriptions;
pub(super) mod tokens;

use std::sync::Arc;
use std::time::Duration;

use weir_event::flow::{StreamName, Time};
use weir_log::Log;

use super::access::{self, Action, Caller, Verdict};
use super::command::{Grant, Outcome, Secret};
use super::decision::{Change, Decision, Kind};
use super::record::{Stream, TokenId};
use super::secrets::{Drawn, Secrets};
use super::state::State;
use super::subscription::{Origin, SubscriptionId};
use crate::clock::Entropy;
use crate::error::{Code, Error};

/// What a plan is made from.
pub(super) struct Desk<'a> {
    /// Everything decided so far.
    pub(super) state: &'a State,
    /// The node's own streams.
    pub(super) own: &'a [Arc<Stream>],
    /// Who asks.
    pub(super) caller: &'a Caller,
    /// When: not before the last decision.
    pub(super) now: Time,
    /// For heads, and for what a change would delete.
    pub(super) log: &'a dyn Log,
    /// Where a subscription would begin, looked up before for commands that need it.
    pub(super) origin: Option<Origin>,
    /// Random numbers.
    pub(super) entropy: &'a dyn Entropy,
    /// To draw secrets.
    pub(super) secrets: &'a Secrets,
}

/// What shall be decided.
pub(super) struct Plan {
    /// The decision; `None` if everything is already as asked for.
    pub(super) decision: Option<Decision>,
    /// Secrets that it refers to, to be kept first.
    pub(super) drawn: Vec<Drawn>,
    /// What to answer once it is applied.
    pub(super) answer: Answer,
}

/// What to answer, by name, since the records get their final form with the decision.
pub(super) enum Answer {
    /// A stream.
    Stream { name: StreamName, created: bool },
    /// A stream is gone.
    Retired,
    /// A subscription.
    Subscription { id: SubscriptionId, grant: Option<Grant>, secret: Option<Secret> },
    /// A token.
    Token { id: TokenId, bearer: Secret },
    /// A token is gone.
    TokenRevoked,
}

impl Answer {
    /// The answer with the records as they are now.
    pub(super) fn outcome(self, state: &State) -> Result<Outcome, Error> {
        let gone = || Error::internal("what was just decided is not in the state");
        Ok(match self {
            Answer::Stream { name, created } => {
                let stream = Arc::clone(state.stream(name.as_str()).ok_or_else(gone)?);
                Outcome::Stream { stream, created }
            }
            Answer::Retired => Outcome::Retired,
            Answer::Subscription { id, grant, secret } => {
                let subscription = Arc::clone(state.subscription(id).ok_or_else(gone)?);
                Outcome::Subscription { subscription, grant, secret }
            }
            Answer::Token { id, bearer } => {
                Outcome::Token { token: Arc::clone(state.token(id).ok_or_else(gone)?), bearer }
            }
            Answer::TokenRevoked => Outcome::TokenRevoked,
        })
    }
}

impl Desk<'_> {
    /// A stream by name, the node's own included.
    pub(super) fn stream(&self, name: &str) -> Option<&Arc<Stream>> {
        self.state.stream(name).or_else(|| self.own.iter().find(|stream| stream.name.as_str() == name))
    }

    /// The stream, if the caller may do this with it.
    pub(super) fn authorized(&self, action: Action, name: &str) -> Result<&Arc<Stream>, Error> {
        let stream = self
            .stream(name)
            .filter(|stream| access::verdict(self.caller, Action::Find, stream) != Verdict::Hidden);
        let Some(stream) = stream else { return Err(missing(self.state, self.caller, name)) };
        match access::verdict(self.caller, action, stream) {
            Verdict::Yes | Verdict::Ask => Ok(stream),
            Verdict::No(needed) => Err(denied(self.caller, needed)),
            Verdict::Hidden => Err(missing(self.state, self.caller, name)),
        }
    }

    /// A decision of the caller, now.
    pub(super) fn decision(&self, kind: Kind, why: Option<Box<str>>, change: Change) -> Decision {
        Decision { kind, who: self.caller.name().into(), why, when: self.now, change }
    }

    /// A random number.
    pub(super) fn random(&self) -> Result<u64, Error> {
        let mut bytes = [0; 8];
        self.entropy.fill(&mut bytes).map_err(Error::internal)?;
        Ok(u64::from_be_bytes(bytes))
    }

    /// The moment so long from now.
    pub(super) fn after(&self, length: Duration) -> Time {
        Time(
            self.now.0.saturating_add(u64::try_from(length.as_millis()).unwrap_or(u64::MAX)).min(Time::MAX.0),
        )
    }
}

/// The error for a stream that does not exist, or must look like it.
pub(super) fn missing(state: &State, caller: &Caller, name: &str) -> Error {
    if let Some(retired) = state.retired(name).filter(|_| state.stream(name).is_none())
        && access::verdict(caller, Action::Find, &retired.stream) != Verdict::Hidden
    {
        let error = Error::new(Code::Retired, format!("the stream {name} was retired"));
        return match retired.reason.as_deref() {
            Some(reason) => error.with("reason", reason),
            None => error,
        };
    }
    let near = near(state, caller, name);
    let error = Error::new(Code::UnknownStream, format!("there is no stream {name:?} that you may see"));
    if near.is_empty() { error } else { error.with("near", near) }
}

/// Names like this one among what the caller may find: at most three, the nearest first. Looks at a bounded
/// number of streams, and closely only at few, because anyone may ask for names that are not there.
fn near(state: &State, caller: &Caller, name: &str) -> Vec<String> {
    const LOOKED_AT: usize = 20_000;
    const COMPARED: usize = 200;
    let wanted = super::members::clipped(name);
    let reach = (wanted.len() / 4).clamp(2, 6);
    let ends = |text: &str| (text.bytes().next(), text.bytes().last());
    let (first, last) = ends(wanted);
    let mut near: Vec<(usize, &str)> = state
        .streams()
        .take(LOOKED_AT)
        .filter(|stream| {
            let other = stream.name.as_str();
            let (other_first, other_last) = ends(other);
            other.len().abs_diff(wanted.len()) <= reach && (first == other_first || last == other_last)
        })
        .filter(|stream| access::verdict(caller, Action::Find, stream) != Verdict::Hidden)
        .take(COMPARED)
        .map(|stream| stream.name.as_str())
        .map(|other| (strsim::osa_distance(wanted, super::members::clipped(other)), other))
        .filter(|(distance, _)| *distance <= reach)
        .collect();
    near.sort_unstable();
    near.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
}

/// The error for a caller who lacks a right that they may know of.
pub(super) fn denied(caller: &Caller, needed: &'static str) -> Error {
    let (code, message) = match caller {
        Caller::Anonymous { .. } => (Code::CredentialRequired, format!("this needs {needed}")),
        _ => (Code::NotAllowed, format!("your credential does not allow this; it needs {needed}")),
    };
    Error::new(code, message).with("needed", needed)
}
