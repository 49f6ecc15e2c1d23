//! One running node: the only place where all its parts meet.
//!
//! [`Node::open`] makes a node from [`Settings`]: it opens the log, has control catch up, and starts the duties that
//! run beside the requests. [`Node::serve`] accepts connections until it is told to stop and then closes everything
//! in order: no new connections; deliveries end; requests under way are answered, publishes among them; cursors
//! and a snapshot are saved; the log is closed by the last handle to it. A test builds the same node from
//! [`Parts`] of its own, on a simulated disk or with a clock that it moves.

use std::sync::{Arc, Weak};
use std::time::Duration;

use http::Uri;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weir_event::flow::Time;
use weir_event::frame;
use weir_log::Log;
use weir_log::engine::Engine;

use crate::admit::Admit;
use crate::clock::{Clock, Entropy, SystemClock, SystemEntropy};
use crate::control::Control;
use crate::deliver::{self, Deliveries};
use crate::error::{Code, Error};
use crate::metrics::Metrics;
use crate::server;
use crate::settings::{Percent, Settings};

/// How often the room on the disk is looked at.
const DISK_EVERY: Duration = Duration::from_secs(5);

/// What a node is made of.
pub struct Parts {
    /// How it runs.
    pub settings: Settings,
    /// The log, open.
    pub log: Arc<dyn Log>,
    /// The same log, if it is the embedded engine: what it counts, and the room on its disk.
    pub engine: Option<Arc<Engine>>,
    /// The control state, caught up.
    pub control: Control,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

/// One running node.
pub struct Node {
    parts: Parts,
    url: Option<Uri>,
    admit: Admit,
    deliveries: Arc<Deliveries>,
    metrics: Arc<Metrics>,
    started: Time,
    closing: CancellationToken,
    duties: TaskTracker,
}

impl Node {
    /// Opens the node that `settings` describe, on the real disk.
    ///
    /// Errors: those of the log and of control; `bad-member` for a URL that is none, and for an address other than
    /// loopback that is not allowed.
    pub async fn open(settings: Settings) -> Result<Arc<Self>, Error> {
        let open_without_tokens = settings.listen.ip().is_loopback();
        if !open_without_tokens && !settings.insecure_plaintext {
            return Err(Error::new(
                Code::BadMember,
                "listening on an address other than loopback needs insecure_plaintext: there is no TLS yet",
            )
            .with("member", "listen"));
        }
        let options = weir_log::Options {
            dedupe_bytes: settings.dedupe_bytes_max.get(),
            reserve_bytes: settings.reserve_bytes.0,
            warn_at: settings.disk_warn.share(),
            stop_at: settings.disk_stop.share(),
            ..weir_log::Options::default()
        };
        let data = settings.data.clone();
        let opened = tokio::task::spawn_blocking(move || Engine::open(&data, options));
        let engine = Arc::new(opened.await.map_err(Error::internal)?.map_err(unopened)?);
        let log: Arc<dyn Log> = engine.clone();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let options = crate::control::Options {
            dir: settings.data.clone(),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            open_without_tokens,
        };
        let control = Control::open(Arc::clone(&log), options).await?;
        if !open_without_tokens && control.read(|state| state.tokens().len() == 0) {
            control.close().await;
            return Err(Error::new(
                Code::BadMember,
                "listening on an address other than loopback needs a token: weir keys token create --role owner",
            )
            .with("member", "listen"));
        }
        Self::new(Parts { settings, log, engine: Some(engine), control, clock, entropy })
    }

    /// A node of these parts, with its duties running. It serves nothing yet.
    pub fn new(parts: Parts) -> Result<Arc<Self>, Error> {
        let settings = &parts.settings;
        if settings.event_bytes_max.get() > frame::BODY_MAX - 16 {
            let error =
                Error::new(Code::BadMember, format!("event_bytes_max is at most {}", frame::BODY_MAX - 16));
            return Err(error.with("member", "event_bytes_max"));
        }
        let url = match &settings.url {
            None => None,
            Some(url) => Some(url.parse().map_err(|_| {
                Error::new(Code::BadMember, "url is no URL, as https://node.example").with("member", "url")
            })?),
        };
        let mut metrics = Metrics::new();
        if let Some(engine) = &parts.engine {
            metrics.add_log(engine.counters().clone());
        }
        let metrics = Arc::new(metrics);
        let closing = CancellationToken::new();
        let bounds = deliver::Bounds {
            deliveries_max: usize::try_from(settings.deliveries_max).unwrap_or(usize::MAX),
            shared_bytes_max: settings.tail_bytes_max.get(),
            turns_max: usize::try_from(settings.turns_max).unwrap_or(usize::MAX).clamp(1, 1024),
            heartbeat: settings.heartbeat,
            stall: settings.stall_timeout,
            scan_bytes: settings.scan_bytes_max.0,
            scan_time: settings.scan_time_max,
        };
        let node = Arc::new(Self {
            url,
            admit: Admit::new(settings, Arc::clone(&metrics)),
            deliveries: Deliveries::new(
                parts.control.clone(),
                Arc::clone(&parts.log),
                Arc::clone(&metrics),
                bounds,
                closing.clone(),
            ),
            metrics,
            started: parts.clock.now(),
            closing,
            duties: TaskTracker::new(),
            parts,
        });
        let control = node.control().clone();
        node.duties.spawn(async move { control.run().await });
        let deliveries = Arc::clone(&node.deliveries);
        node.duties.spawn(async move { deliveries.run().await });
        node.duties.spawn(watch_disk(Arc::downgrade(&node)));
        Ok(node)
    }

    /// Serves `listener` until `shutdown` is ready, then stops the node and closes it.
    pub async fn serve(self: &Arc<Self>, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let settings = self.settings();
        let bounds = server::Bounds {
            connections_max: usize::try_from(settings.connections_max).unwrap_or(usize::MAX),
            head_timeout: settings.request_timeout,
            drain_timeout: settings.drain_timeout,
        };
        let serving = server::serve(Arc::clone(self), listener, bounds, self.closing.clone());
        tokio::pin!(serving);
        let drained = tokio::select! {
            () = shutdown => {
                self.closing.cancel();
                serving.await
            }
            drained = &mut serving => drained,
        };
        if !drained {
            tracing::warn!("some connections did not end in time and were cut off");
        }
        self.close().await;
    }

    /// Stops the duties and saves what they keep. The log closes with the last handle to it.
    pub async fn close(&self) {
        self.closing.cancel();
        self.control().close().await;
        self.duties.close();
        if tokio::time::timeout(self.settings().drain_timeout, self.duties.wait()).await.is_err() {
            tracing::warn!("some duties did not end in time");
        }
    }

    /// How the node runs.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.parts.settings
    }

    /// What the node has decided.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.parts.control
    }

    /// Every stream.
    #[must_use]
    pub fn log(&self) -> &Arc<dyn Log> {
        &self.parts.log
    }

    /// The embedded log engine, unless the log is another one.
    #[must_use]
    pub fn engine(&self) -> Option<&Arc<Engine>> {
        self.parts.engine.as_ref()
    }

    /// Time.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.parts.clock
    }

    /// Randomness.
    #[must_use]
    pub fn entropy(&self) -> &Arc<dyn Entropy> {
        &self.parts.entropy
    }

    /// What the node counts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The door for events.
    pub(crate) fn admit(&self) -> &Admit {
        &self.admit
    }

    /// Every delivery.
    pub(crate) fn deliveries(&self) -> &Arc<Deliveries> {
        &self.deliveries
    }

    /// The organization that the node acts for.
    #[must_use]
    pub fn organization(&self) -> &str {
        &self.parts.settings.name
    }

    /// The configured public URL.
    #[must_use]
    pub fn url(&self) -> Option<&Uri> {
        self.url.as_ref()
    }

    /// When the node started.
    #[must_use]
    pub fn started(&self) -> Time {
        self.started
    }

    /// Cancelled once the node begins to stop.
    #[must_use]
    pub fn closing(&self) -> &CancellationToken {
        &self.closing
    }
}

/// How full the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fullness {
    Room,
    Warn,
    Stop,
}

/// Tells `_weir.ops` when the disk passes one of its marks, either way.
async fn watch_disk(node: Weak<Node>) {
    let mut was = Fullness::Room;
    loop {
        let Some(node) = node.upgrade() else { return };
        let Some(engine) = node.engine().cloned() else { return };
        let (warn, stop) = (node.settings().disk_warn, node.settings().disk_stop);
        if let Ok(Ok(room)) = tokio::task::spawn_blocking(move || engine.room()).await {
            let used = room.total.saturating_sub(room.free);
            let past = |mark: Percent| {
                u128::from(used) * 100 >= u128::from(room.total) * u128::from(mark.0) && room.total > 0
            };
            let is = match (past(warn), past(stop)) {
                (_, true) => Fullness::Stop,
                (true, false) => Fullness::Warn,
                (false, false) => Fullness::Room,
            };
            if is != was {
                let kind = match is {
                    Fullness::Room => "weir.disk.room",
                    Fullness::Warn => "weir.disk.warning",
                    Fullness::Stop => "weir.disk.full",
                };
                tracing::warn!(used, total = room.total, kind, "the disk has passed a mark");
                node.control().note(kind, "", json!({"used": used, "total": room.total}));
                was = is;
            }
        }
        let closing = node.closing().clone();
        drop(node);
        tokio::select! {
            () = closing.cancelled() => return,
            () = tokio::time::sleep(DISK_EVERY) => {}
        }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("settings", &self.parts.settings).finish_non_exhaustive()
    }
}

/// Why the log did not open, for the operator who starts the node: in the log's own words, which name the
/// directory, who else holds it, or the format. They are kept from callers of a running node, and there is none yet.
fn unopened(error: weir_log::Error) -> Error {
    let code = match error.kind() {
        weir_log::Kind::Corrupt => Code::Corrupt,
        weir_log::Kind::Unavailable | weir_log::Kind::Closed => Code::NotReady,
        weir_log::Kind::Exhausted => Code::DiskFull,
        weir_log::Kind::Invalid
        | weir_log::Kind::NotFound
        | weir_log::Kind::Conflict
        | weir_log::Kind::Internal => Code::Internal,
    };
    Error::new(code, error.to_string()).caused_by(error)
}
