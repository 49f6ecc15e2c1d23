//! The HTTP interface: every call of `DESIGN.md`'s table, as an axum router over a [`Node`].
//!
//! A request passes [`guard`] (paths, and on an open node `Host` and `Origin`), then the call's function, which
//! says who asks (`auth`), reads its query and body strictly (`query`, `body`), has `control`, `admit` or
//! `deliver` do the work, and turns the outcome into an answer. Whatever goes wrong anywhere is an
//! [`Error`] and leaves as a problem detail (`problem`), also what axum itself refuses: unknown
//! paths, wrong methods.
//!
//! **This module translates and holds no policy.** It compares no roles, keeps no state of its own and starts
//! nothing that outlives a request; what a caller may do is asked of `control`, and a decision is made there.
//! Two answers for the same thing on two paths would be a defect here.
//!
//! Every call is entered once, in the list its module gives to [`Routes`]. From that list come the router, the
//! `Allow` header of OPTIONS and 405, and the check that `openapi.json` describes exactly these calls.
//!
//! - `publish`, `events`: events in and out
//! - `streams`, `subscriptions`, `decisions`, `ack`, `tokens`: what control decides and remembers
//! - `wellknown`, `health`, `openapi`: what the node says of itself

mod ack;
mod asked;
pub(crate) mod auth;
pub(crate) mod body;
mod decisions;
pub(crate) mod events;
pub(crate) mod guard;
mod health;
mod openapi;
pub(crate) mod problem;
pub(crate) mod publish;
pub(crate) mod query;
pub(crate) mod rest;
mod streams;
mod subscriptions;
mod tokens;
mod wellknown;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter};
use http::header::{ALLOW, HeaderName, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use http_body::Body as _;
use tracing::Instrument;

pub use problem::errors_markdown;

use crate::Node;
use crate::error::{Code, Error};

/// Where a request's connection comes from: an extension that the server adds to every request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// The whole interface of a node.
pub fn router(node: Arc<Node>) -> Router {
    routes()
        .router()
        .fallback(unknown_path)
        .layer(axum::middleware::from_fn_with_state(node.clone(), around))
        .with_state(node)
}

/// Every call, in the order of the documentation.
fn routes() -> Routes {
    let routes = Routes::default();
    let routes = wellknown::routes(routes);
    let routes = streams::routes(routes);
    let routes = publish::routes(routes);
    let routes = events::routes(routes);
    let routes = subscriptions::routes(routes);
    let routes = decisions::routes(routes);
    let routes = ack::routes(routes);
    let routes = tokens::routes(routes);
    let routes = health::routes(routes);
    openapi::routes(routes)
}

/// The calls of the interface while they are entered.
#[derive(Default)]
pub(crate) struct Routes {
    entries: Vec<Entry>,
}

/// One path and what answers on it.
struct Entry {
    path: &'static str,
    methods: Vec<Method>,
    handlers: MethodRouter<Arc<Node>>,
}

impl Routes {
    /// Enters one call. GET answers HEAD as well.
    pub(crate) fn on<H, T>(mut self, method: Method, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, Arc<Node>>,
        T: 'static,
    {
        let filter = match method {
            Method::GET => MethodFilter::GET,
            Method::PUT => MethodFilter::PUT,
            Method::PATCH => MethodFilter::PATCH,
            Method::DELETE => MethodFilter::DELETE,
            _ => MethodFilter::POST,
        };
        let index = self.entries.iter().position(|entry| entry.path == path).unwrap_or_else(|| {
            self.entries.push(Entry { path, methods: Vec::new(), handlers: MethodRouter::new() });
            self.entries.len() - 1
        });
        let entry = &mut self.entries[index];
        entry.methods.push(method);
        entry.handlers = std::mem::take(&mut entry.handlers).on(filter, handler);
        self
    }

    /// The router, with OPTIONS and 405 for every path.
    fn router(self) -> Router<Arc<Node>> {
        let mut router = Router::new();
        for Entry { path, methods, handlers } in self.entries {
            let allow = allow(&methods);
            let refused = allow.clone();
            let handlers = handlers
                .on(MethodFilter::OPTIONS, move || async move { options(&allow) })
                .fallback(move || async move { wrong_method(&refused) });
            router = router.route(path, handlers);
        }
        router
    }
}

/// The methods of a path as `Allow` lists them.
fn allow(methods: &[Method]) -> String {
    let mut names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    if names.contains(&"GET") {
        names.push("HEAD");
    }
    names.push("OPTIONS");
    names.join(", ")
}

/// Adds `Allow`, which holds nothing but method names.
fn with_allow(mut response: Response, allow: &str) -> Response {
    if let Ok(allow) = HeaderValue::from_str(allow) {
        response.headers_mut().insert(ALLOW, allow);
    }
    response
}

fn options(allow: &str) -> Response {
    with_allow(StatusCode::NO_CONTENT.into_response(), allow)
}

fn wrong_method(allow: &str) -> Response {
    let error = Error::new(Code::MethodNotAllowed, format!("this path takes {allow}"));
    with_allow(error.into_response(), allow)
}

async fn unknown_path() -> Error {
    Error::new(Code::NotFound, "there is no such path, see /openapi.json for those there are")
}

/// What surrounds every call: the guard before it, a span around it, and after it the rest of the body and the
/// headers that keep a browser from taking an answer for something else than it is.
async fn around(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    // The path only: a query may hold what must not be logged.
    let span = tracing::debug_span!("request", method = %request.method(), path = request.uri().path());
    let serve = async {
        let (head, body) = request.into_parts();
        // Most requests have no body; what they leave of it needs no care.
        let (body, back) = if body.is_end_stream() {
            (body, None)
        } else {
            let (lent, back) = rest::Lent::new(body);
            (axum::body::Body::new(lent), Some((back, head.version, head.headers.clone())))
        };
        let mut response = match check(&node, &head.uri, &head.headers) {
            Ok(()) => next.run(Request::from_parts(head, body)).await,
            Err(error) => {
                drop(body);
                error.into_response()
            }
        };
        if let Some((back, version, asked)) = back
            && let Some(mut rest) = back.take()
        {
            rest::settle(&mut rest, version, &asked, response.headers_mut()).await;
        }
        response
    };
    let mut response = serve.instrument(span).await;
    protect(response.headers_mut());
    response
}

/// What is refused before any call looks at a request.
pub(crate) fn check(node: &Node, uri: &Uri, headers: &HeaderMap) -> Result<(), Error> {
    guard::check(node.control().is_open(), node.url(), uri, headers)
}

/// The headers of every answer that keep a browser from taking it for something else than it is.
pub(crate) fn protect(headers: &mut HeaderMap) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
}

#[cfg(test)]
mod tests;
