//! A node behind its router, without sockets: what every test of the interface begins with.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;
use weir_event::flow::Time;

use super::memory::MemoryLog;
use crate::clock::{SeededEntropy, SetClock};
use crate::control::{Control, Options};
use crate::settings::Settings;
use crate::{Code, Node, Parts};

/// When the tests' clock begins.
pub(crate) const NOW: Time = Time(1_790_000_000_000);

pub(crate) struct App {
    pub(crate) node: Arc<Node>,
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) clock: Arc<SetClock>,
    router: Router,
    _dir: tempfile::TempDir,
}

/// An answer, read whole.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    pub(crate) json: Value,
}

impl App {
    /// A node on loopback without tokens.
    pub(crate) async fn open() -> Self {
        Self::start(true).await
    }

    /// A node that takes nothing from callers without a credential but what anyone may do, and the bearer of its
    /// owner.
    pub(crate) async fn closed() -> (Self, String) {
        let app = Self::start(true).await;
        let token = app.token("owner", None).await;
        (app, token)
    }

    async fn start(open_without_tokens: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(SetClock::at(NOW));
        let log = Arc::new(MemoryLog::new(clock.clone()));
        let entropy = Arc::new(SeededEntropy::new(7));
        let options = Options {
            dir: dir.path().to_owned(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            open_without_tokens,
        };
        let control = Control::open(log.clone(), options).await.unwrap();
        let settings = Settings { name: "node.example".to_owned(), ..Settings::default() };
        let parts =
            Parts { settings, log: log.clone(), engine: None, control, clock: clock.clone(), entropy };
        let node = Node::new(parts).unwrap();
        Self { router: super::super::router(node.clone()), node, log, clock, _dir: dir }
    }

    /// The same calls against another node.
    pub(crate) fn on(&self, node: Arc<Node>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (log, clock) = (self.log.clone(), self.clock.clone());
        Self { router: super::super::router(node.clone()), node, log, clock, _dir: dir }
    }

    /// A request with a JSON body (none if null) and headers, from this machine.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Reply {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "127.0.0.1:8080");
        }
        if !text.is_empty() && !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(text)).unwrap()).await
    }

    /// Any request.
    pub(crate) async fn send(&self, mut request: Request<Body>) -> Reply {
        request.extensions_mut().insert(super::super::Peer(([192, 0, 2, 1], 40000).into()));
        let answer = tokio::time::timeout(Duration::from_secs(20), self.router.clone().oneshot(request));
        let (parts, body) = answer.await.expect("an answer in time").unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let json = serde_json::from_str(&text).unwrap_or_default();
        Reply { status: parts.status, headers: parts.headers, text, json }
    }

    pub(crate) async fn get(&self, path: &str, bearer: &str) -> Reply {
        self.with(Method::GET, path, bearer, &Value::Null).await
    }

    pub(crate) async fn post(&self, path: &str, bearer: &str, body: &Value) -> Reply {
        self.with(Method::POST, path, bearer, body).await
    }

    pub(crate) async fn put(&self, path: &str, bearer: &str, body: &Value) -> Reply {
        self.with(Method::PUT, path, bearer, body).await
    }

    /// A call with a bearer; none if it is empty.
    pub(crate) async fn with(&self, method: Method, path: &str, bearer: &str, body: &Value) -> Reply {
        let bearer = format!("Bearer {bearer}");
        let headers = if bearer == "Bearer " { Vec::new() } else { vec![("authorization", bearer.as_str())] };
        self.call(method, path, &headers, body).await
    }

    /// A new token, made by the node's own side.
    pub(crate) async fn token(&self, role: &str, organization: Option<&str>) -> String {
        use crate::control::{Caller, Command, Outcome, Pattern, Role};
        let command = Command::CreateToken {
            role: Role::named(role).unwrap(),
            streams: Pattern::all(),
            organization: organization.map(Into::into),
            expires: None,
        };
        match self.node.control().decide(&Caller::Node, command).await.unwrap() {
            Outcome::Token { bearer, .. } => bearer.reveal().to_owned(),
            other => panic!("{other:?}"),
        }
    }
}

impl Reply {
    /// Asserts a problem of this code, whole and well formed.
    #[track_caller]
    pub(crate) fn is(&self, code: Code) -> &Self {
        let wanted = format!("urn:weir:error:{code}");
        assert_eq!(self.json["type"], wanted.as_str(), "{} {}", self.status, self.text);
        assert_eq!(self.status, super::super::problem::status(code), "{}", self.text);
        assert_eq!(self.json["status"], self.status.as_u16());
        assert_eq!(self.json["title"], code.title());
        assert!(self.json["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.headers.contains_key("www-authenticate"), self.status == 401, "{}", self.text);
        self
    }

    /// Asserts an answer of this status.
    #[track_caller]
    pub(crate) fn ok(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// A member that is a text.
    #[track_caller]
    pub(crate) fn text(&self, member: &str) -> String {
        let text = self.json[member].as_str();
        text.unwrap_or_else(|| panic!("{member} in {}", self.text)).to_owned()
    }

    /// A header that is there.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}
