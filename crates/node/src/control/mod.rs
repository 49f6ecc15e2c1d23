//! Control: what the node has decided, and how it decides.
//!
//! Everything that makes a node what it is for others (its streams and their descriptors, who may read, who
//! asked, who was accepted on which terms, which tokens there are) is the fold of one private stream of
//! decisions, `_weir.state`. Calls come in through [`Control`]; only [`Control::decide`] changes anything.
//!
//! **A decision** takes these steps, one decision at a time:
//!
//! 1. [`plan`] judges the command against the state that all decisions before it left, and says what would be
//!    written and answered. Refusals end here, without any effect.
//! 2. Secrets that the decision refers to are written and synced ([`secrets`]).
//! 3. The decision is appended to `_weir.state`, conditional on being the next one, and synced ([`decision`]).
//! 4. [`State::apply`] folds it in; whoever delivers is woken, and the log is told of new or changed streams.
//!
//! A crash before 3 leaves at most a secret that nothing refers to; a crash after it loses nothing, because the
//! next start folds the decision from the log. If the outcome of 3 is not known, the log is read again before
//! anything else is decided: what it holds has been decided. So nothing is decided twice, and no two parts of the
//! node can see different decisions. A decision runs to its end even if whoever asked has gone.
//!
//! **Beside the state** lie what is no decision ([`cursors`], meters, counted refusals) and what must be erasable
//! ([`secrets`]). The streams `_weir.audit`, `_weir.ops` and `_weir.usage` are derived ([`derived`]).
//!
//! **Locks**, in the order in which they may be held together: the turn (async, held for a whole decision), the
//! state, the names. The last two are held for a look, never across an await. The hot path takes the names alone
//! to find a stream, and the state for a look at a token.
//!
//! Deliberately absent: any protocol, and any use of a wall clock or of randomness in the fold.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use std::collections::HashSet;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weir_event::flow::{History, Position, StreamName, Time};
use weir_event::proto;
use weir_log::{Batch, Durability, Log, Retention, Settings};

pub mod access;
pub mod command;
pub mod cursors;
pub mod decision;
pub mod derived;
pub mod descriptor;
mod duties;
mod files;
pub mod filters;
pub mod limits;
pub mod members;
mod plan;
pub mod quantity;
pub mod reading;
pub mod record;
mod secrets;
mod snapshot;
pub mod state;
pub mod subscription;
pub mod terms;
#[cfg(test)]
mod tests;

pub use access::{Action, Caller, Role, Verdict};
pub use command::{Command, Grant, Outcome, Secret, Seen};
pub use cursors::Cursor;
pub use derived::Meter;
pub use descriptor::{Access, Descriptor};
pub use filters::Filters;
pub use reading::{Page, Reader, Target, Wanted};
pub use record::{Pattern, Stream, Token, TokenId};
pub use state::State;
pub use subscription::{Imposed, Origin, Request, Standing, Start, Status, Subscription, SubscriptionId};

use crate::clock::{Clock, Entropy};
use crate::error::{Code, Error};
use cursors::Cursors;
use decision::{Change, Decision};
use derived::Derived;
use plan::{Answer, Desk, Plan};
use reading::Tickets;
use secrets::Secrets;
use state::{ByName, own};

/// Where control keeps its own files and what it draws from.
pub struct Options {
    /// The node's data directory: snapshots, secrets and cursors lie in `control/` below it.
    pub dir: PathBuf,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Whether callers without a credential act as owner for as long as no token was ever created. Only for
    /// nodes that listen on loopback.
    pub open_without_tokens: bool,
}

/// The node's control: one handle, cheap to clone.
#[derive(Clone)]
pub struct Control(Arc<Inner>);

struct Inner {
    log: Arc<dyn Log>,
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    open_without_tokens: bool,
    /// Held by whoever decides.
    turn: tokio::sync::Mutex<()>,
    state: RwLock<State>,
    /// Every stream by name, apart from the state so that looks at that never hold up the hot path.
    names: RwLock<HashSet<ByName>>,
    own: Vec<Arc<Stream>>,
    /// Whether anyone acts as owner.
    is_open: AtomicBool,
    secrets: Arc<Secrets>,
    cursors: Arc<Cursors>,
    tickets: Mutex<Tickets>,
    derived: Derived,
    /// Rises whenever a standing may have changed.
    changes: watch::Sender<u64>,
    /// Wakes the duty that waits for the next thing to run out.
    due: tokio::sync::Notify,
    closing: CancellationToken,
    /// Whether no secret can have become needless since they were last looked through.
    swept: AtomicBool,
    /// The position of the newest snapshot.
    snapshot: Mutex<Position>,
}

impl Control {
    /// Opens the state: the newest sound snapshot, then the rest of the log. Declares every stream to the log.
    ///
    /// Errors: `corrupt` if a decision can not be read, also when a newer program wrote it; `internal` with the
    /// cause if control's own files can not be read.
    pub async fn open(log: Arc<dyn Log>, options: Options) -> Result<Self, Error> {
        let Options { dir, clock, entropy, open_without_tokens } = options;
        let dir = dir.join("control");
        let mut random = [0; 8];
        entropy.fill(&mut random).map_err(Error::internal)?;
        let random = u64::from_be_bytes(random);
        log.declare(own::STATE, own_settings(), History(random))?;
        // What the log holds of them wins; a fresh number is for streams nothing was ever written to.
        let own = state::own_streams(|id| History(random.wrapping_add(id.0)));
        for stream in &own {
            log.declare(stream.id, stream.settings(), stream.history)?;
        }
        let head = log.status(own::STATE)?;
        let (files, seed) = (dir.clone(), Arc::clone(&entropy));
        let opened = tokio::task::spawn_blocking(move || -> std::io::Result<_> {
            files::make_dir(&files)?;
            let secrets = Secrets::open(&files, seed.as_ref())?;
            let cursors = Cursors::open(&files)?;
            Ok((secrets, cursors, snapshot::load(&files, head.history, head.last)))
        });
        let (secrets, cursors, snapshot) = opened.await.map_err(Error::internal)?.map_err(Error::internal)?;
        let state = snapshot.unwrap_or_default();
        let inner = Inner {
            derived: Derived::new(&clock),
            dir,
            clock,
            entropy,
            open_without_tokens,
            turn: tokio::sync::Mutex::new(()),
            snapshot: Mutex::new(state.position()),
            state: RwLock::new(state),
            names: RwLock::new(HashSet::new()),
            own: own.into_iter().map(Arc::new).collect(),
            is_open: AtomicBool::new(false),
            secrets: Arc::new(secrets),
            cursors: Arc::new(cursors),
            tickets: Mutex::new(Tickets::default()),
            changes: watch::Sender::new(0),
            due: tokio::sync::Notify::new(),
            closing: CancellationToken::new(),
            swept: AtomicBool::new(false),
            log,
        };
        inner.fold().await?;
        inner.declare_all()?;
        Ok(Self(Arc::new(inner)))
    }

    /// Short, synchronous look at the state.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.state())
    }

    /// Whether callers without a credential act as owner: the node may be open and no token was ever created.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.is_open.load(Ordering::Acquire)
    }

    /// A stream by name, whoever asks: for the hot path, before [`Control::authorize`].
    #[must_use]
    pub fn stream(&self, name: &str) -> Option<Arc<Stream>> {
        self.0.stream(name)
    }

    /// A number that rises whenever a standing may have changed: after a decision that touches one, and at once
    /// when a credential or a subscription runs out.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Who sends this bearer. Without one: an open node's owner, or nobody in particular.
    ///
    /// Errors: `bad-credential` for one that is not known, has run out or was revoked; `subscription-closed` for a
    /// grant whose subscription is over.
    pub fn authenticate(&self, bearer: Option<&str>, address: Option<IpAddr>) -> Result<Caller, Error> {
        self.0.authenticate(bearer, address)
    }

    /// Decides: validates against the state, appends one durable decision, applies it. Runs to its end even if
    /// the caller goes away.
    ///
    /// Errors: whatever the command's plan refuses, see [`plan`]; `outcome-unknown` if the disk failed, where
    /// looking again tells; `disk-full` only if not even the reserve is left.
    pub async fn decide(&self, caller: &Caller, command: Command) -> Result<Outcome, Error> {
        let (inner, caller) = (Arc::clone(&self.0), caller.clone());
        let decided = tokio::spawn(async move { inner.decide(&caller, command).await });
        decided.await.map_err(Error::internal)?
    }
}

/// How `_weir.state` is kept: for ever.
fn own_settings() -> Settings {
    Settings {
        durability: Durability::Fsync,
        dedupe: None,
        retention: Retention { age: None, bytes: None, count: None },
        control: true,
    }
}

impl Inner {
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The moment for decisions: never before one that was made already, even if the clock was set back.
    fn now(&self) -> Time {
        self.clock.now().max(self.state().time())
    }

    fn stream(&self, name: &str) -> Option<Arc<Stream>> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.get(name).map(|entry| Arc::clone(&entry.0))
    }

    fn random(&self) -> Result<u64, Error> {
        let mut bytes = [0; 8];
        self.entropy.fill(&mut bytes).map_err(Error::internal)?;
        Ok(u64::from_be_bytes(bytes))
    }

    async fn decide(&self, caller: &Caller, command: Command) -> Result<Outcome, Error> {
        if let Caller::Ticket { .. } = caller {
            return Err(Error::new(Code::NotAllowed, "a ticket opens one delivery and nothing else")
                .with("needed", "the credential that the ticket was made with"));
        }
        let (named, about) = (command.name(), self.about(&command));
        let refused = |error: Error| {
            self.derived.refused(caller, named, about.as_ref(), &error);
            error
        };
        let _turn = self.turn.lock().await;
        self.fold().await?;
        let origin = self.origin(caller, &command).await.map_err(refused)?;
        let plan = {
            let state = self.state();
            let desk = self.desk(&state, caller, origin);
            plan_of(&desk, command)
        };
        self.carry_out(plan.map_err(refused)?).await
    }

    /// The stream that a command is about, if there is such a one: what nobody has is no refusal worth telling.
    fn about(&self, command: &Command) -> Option<StreamName> {
        let state = self.state();
        let subscription = command.subscription().and_then(|id| state.subscription(id));
        let name = subscription.map(|found| &found.request.stream).or(command.stream())?;
        self.stream(name.as_str()).map(|stream| stream.name.clone())
    }

    fn desk<'a>(&'a self, state: &'a State, caller: &'a Caller, origin: Option<Origin>) -> Desk<'a> {
        Desk {
            state,
            own: &self.own,
            caller,
            now: self.clock.now().max(state.time()),
            log: self.log.as_ref(),
            origin,
            entropy: self.entropy.as_ref(),
            secrets: &self.secrets,
        }
    }

    /// Keeps the secrets, writes the decision, applies it, and answers.
    async fn carry_out(&self, plan: Plan) -> Result<Outcome, Error> {
        let Plan { decision, drawn, answer } = plan;
        if !drawn.is_empty() {
            let secrets = Arc::clone(&self.secrets);
            tokio::task::spawn_blocking(move || drawn.iter().try_for_each(|drawn| secrets.keep(drawn)))
                .await
                .map_err(Error::internal)?
                .map_err(unkept)?;
        }
        if let Some(decision) = decision {
            self.commit(decision).await?;
        }
        self.answer(answer)
    }

    fn answer(&self, answer: Answer) -> Result<Outcome, Error> {
        answer.outcome(&self.state())
    }

    /// Makes a decision durable and applies it.
    async fn commit(&self, decision: Decision) -> Result<(), Error> {
        let expect = self.state().position();
        let mut body = Vec::new();
        decision.encode(&format!("{:016x}{:016x}", self.random()?, self.random()?), &mut body)?;
        let ends = vec![u32::try_from(body.len()).map_err(Error::internal)?];
        let batch = Batch { body: body.into(), ends, expect: Some(expect), ..Batch::default() };
        match self.log.append(own::STATE, batch).await {
            Ok(appended) => {
                self.apply(appended.first, &decision);
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, kind = decision.kind.name(), "a decision could not be written");
                // What the log holds was decided, whatever was reported; and with the turn held, what it holds
                // now and did not before can only be this decision.
                self.fold().await?;
                if self.state().position() > expect {
                    return Ok(());
                }
                Err(match error.kind() {
                    weir_log::Kind::Unavailable => Error::new(
                        Code::OutcomeUnknown,
                        "the disk failed while the decision was written; look whether it was made before you repeat it",
                    )
                    .retry_after(Duration::from_secs(1))
                    .caused_by(error),
                    _ => Error::from(error),
                })
            }
        }
    }

    /// Folds every decision that the log holds and the state does not. Called with the turn, or before there is
    /// anyone to take it.
    async fn fold(&self) -> Result<(), Error> {
        loop {
            let at = self.state().position();
            if self.log.status(own::STATE)?.last <= at {
                return Ok(());
            }
            let read = self.log.read(own::STATE, at.next(), 4 << 20).await?;
            if let Some(skipped) = read.skipped.first() {
                let what = format!("_weir.state has no decisions {} to {}", skipped.from, skipped.to);
                return Err(Error::new(Code::Corrupt, what));
            }
            if read.runs.is_empty() {
                return Err(Error::new(Code::Corrupt, format!("_weir.state has no decision {}", at.next())));
            }
            for run in &read.runs {
                let mut position = run.first;
                for bytes in proto::batch(&run.body) {
                    let bytes = bytes.map_err(|error| {
                        Error::new(Code::Corrupt, "a run of _weir.state is damaged").caused_by(error)
                    })?;
                    if position > at {
                        self.apply(position, &Decision::decode(bytes)?);
                    }
                    position = position.next();
                }
            }
        }
    }

    /// Folds a durable decision in and tells whoever has to know.
    fn apply(&self, position: Position, decision: &Decision) {
        let before = match &decision.change {
            Change::Subscription(subscription) => {
                self.state().subscription(subscription.id).and_then(|before| before.start)
            }
            _ => None,
        };
        let retired = match &decision.change {
            Change::Retired { stream, .. } => self.state().stream(stream.as_str()).map(|stream| stream.id),
            _ => None,
        };
        self.state.write().unwrap_or_else(PoisonError::into_inner).apply(position, decision);
        match &decision.change {
            Change::Stream { stream, .. } => {
                let stream = self.state().stream(stream.name.as_str()).map(Arc::clone);
                if let Some(stream) = stream {
                    self.declare(&stream);
                    self.names.write().unwrap_or_else(PoisonError::into_inner).replace(ByName(stream));
                }
            }
            Change::Retired { stream, .. } => {
                self.names.write().unwrap_or_else(PoisonError::into_inner).remove(stream.as_str());
                if let Some(id) = retired
                    && let Err(error) = self.log.remove(id)
                {
                    tracing::warn!(%error, stream = stream.as_str(), "a retired stream could not be removed");
                }
            }
            Change::Subscription(subscription) => {
                if let Some(start) =
                    subscription.start.filter(|start| before.is_some_and(|was| was != *start))
                {
                    self.cursors.set(subscription.id, start);
                }
            }
            Change::Token(_) => self.is_open.store(false, Ordering::Release),
            Change::TokenEnded(_) => {}
        }
        if decision.kind != decision::Kind::StreamCreated {
            self.swept.store(false, Ordering::Release);
            self.changed();
        }
        self.due.notify_one();
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn declare(&self, stream: &Stream) {
        if let Err(error) = self.log.declare(stream.id, stream.settings(), stream.history) {
            tracing::error!(%error, stream = stream.name.as_str(), "a stream could not be declared to the log");
        }
    }

    /// After the first fold: makes every stream known by name and to the log, and completes what a crash between a
    /// decision and its consequences left.
    fn declare_all(&self) -> Result<(), Error> {
        let state = self.state();
        for (_, retired) in state.all_retired() {
            // Most are gone already.
            let _ = self.log.remove(retired.stream.id);
        }
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        names.reserve(state.streams().len() + self.own.len());
        names.extend(self.own.iter().map(|stream| ByName(Arc::clone(stream))));
        for stream in state.streams() {
            self.log.declare(stream.id, stream.settings(), stream.history)?;
            names.insert(ByName(Arc::clone(stream)));
        }
        self.is_open.store(self.open_without_tokens && !state.had_token(), Ordering::Release);
        Ok(())
    }

    /// Where the subscription of a command would begin: the furthest of what is asked for and what is imposed.
    async fn origin(&self, caller: &Caller, command: &Command) -> Result<Option<Origin>, Error> {
        let (request, imposed) = match command {
            Command::Subscribe { request } | Command::ChangeSubscription { request, .. } => {
                (Some(Request::clone(request)), None)
            }
            Command::Accept { id, imposed, .. } => {
                let found = self.state().subscription(*id).map(Arc::clone);
                let request =
                    found.map(|found| Request::clone(found.wanted.as_ref().unwrap_or(&found.request)));
                (request, imposed.from)
            }
            _ => (None, None),
        };
        let Some(request) = request else { return Ok(None) };
        let Some(stream) = self.stream(request.stream.as_str()) else { return Ok(None) };
        if access::verdict(caller, Action::Find, &stream) == Verdict::Hidden {
            return Ok(None);
        }
        let mut after = self.after(&stream, request.from).await?;
        if let Some(imposed) = imposed {
            after = after.max(self.after(&stream, imposed).await?);
        }
        Ok(Some(Origin { history: self.log.status(stream.id)?.history, after }))
    }

    /// The last position before a start.
    async fn after(&self, stream: &Stream, start: Start) -> Result<Position, Error> {
        let status = self.log.status(stream.id)?;
        match start {
            Start::Earliest => Ok(Position::NONE),
            Start::Latest => Ok(status.last),
            Start::Position(position) if position > status.next => {
                let what = format!("the stream {} ends at position {}", stream.name, status.last);
                Err(Error::new(Code::BadPosition, what)
                    .with("member", "config.from")
                    .with("head", status.last.0))
            }
            Start::Position(position) => Ok(position.previous()),
            Start::Time(time) => Ok(self.log.find(stream.id, time).await?.previous()),
        }
    }
}

/// A secret could not be written: the decision was not made.
fn unkept(error: std::io::Error) -> Error {
    let code = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Code::DiskFull,
        _ => Code::NotReady,
    };
    tracing::error!(%error, "the secrets file can not be written");
    Error::new(code, "the node could not keep a secret, so nothing was decided")
        .retry_after(Duration::from_secs(5))
        .caused_by(error)
}

/// The plan of a command.
fn plan_of(desk: &Desk<'_>, command: Command) -> Result<Plan, Error> {
    use plan::{streams, subscriptions, tokens};
    match command {
        Command::PutStream { name, descriptor, seen, confirm } => {
            streams::put(desk, name, *descriptor, &seen, confirm.as_deref())
        }
        Command::PatchStream { name, patch, seen, confirm } => {
            streams::patch(desk, &name, &patch, &seen, confirm.as_deref())
        }
        Command::RetireStream { name, seen, confirm, reason } => {
            streams::retire(desk, &name, &seen, confirm.as_deref(), reason)
        }
        Command::Subscribe { request } => subscriptions::subscribe(desk, *request),
        Command::ChangeSubscription { id, request } => subscriptions::change(desk, id, *request),
        Command::Cancel { id, reason } => subscriptions::cancel(desk, id, reason),
        Command::Accept { id, reason, imposed } => subscriptions::accept(desk, id, reason, *imposed),
        Command::Reject { id, reason } => subscriptions::reject(desk, id, reason),
        Command::Suspend { id, reason } => subscriptions::suspend(desk, id, reason),
        Command::Resume { id, reason } => subscriptions::resume(desk, id, reason),
        Command::Revoke { id, reason } => subscriptions::revoke(desk, id, reason),
        Command::Fail { id, reason } => subscriptions::fail(desk, id, reason),
        Command::Grant { id } => subscriptions::grant(desk, id),
        Command::CreateToken { role, streams, organization, expires } => {
            tokens::create(desk, role, streams, organization, expires)
        }
        Command::RevokeToken { id } => tokens::revoke(desk, id),
    }
}
