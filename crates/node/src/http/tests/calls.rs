//! The description is whole: every call of the router is in it, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use serde_json::{Value, json};

use super::app::App;
use crate::Code;
use crate::http::openapi::document;
use crate::http::routes;

/// Follows a `$ref` into the document's components.
fn resolved<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).expect(reference),
        None => value,
    }
}

/// Every operation of the description: path, method, operation.
fn described(document: &Value) -> Vec<(String, String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, item): (&String, &'_ Value)| {
        let path = path.clone();
        let item: Vec<_> = item.as_object().unwrap().keys().cloned().collect();
        item.into_iter().filter(|key| key != "parameters").map(move |key| (path.clone(), key))
    };
    let found: Vec<_> = paths.iter().flat_map(of_path).collect();
    found
        .into_iter()
        .map(|(path, method)| {
            let operation = &document["paths"][path.as_str()][method.as_str()];
            (path, method.to_uppercase(), operation)
        })
        .collect()
}

#[test]
fn every_call_is_described_and_nothing_else() {
    let document = document("http://127.0.0.1:8080");
    let described: BTreeSet<(String, String)> =
        described(&document).into_iter().map(|(path, method, _)| (path, method)).collect();
    let routed: BTreeSet<(String, String)> = routes()
        .entries
        .iter()
        .flat_map(|entry| entry.methods.iter().map(|method| (entry.path.to_owned(), method.to_string())))
        .collect();
    assert_eq!(described, routed);
}

#[test]
fn every_reference_leads_somewhere_and_operations_are_named_once() {
    fn walk<'v>(value: &'v Value, visit: &mut impl FnMut(&'v str)) {
        match value {
            Value::Object(map) => {
                if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                    visit(reference);
                }
                map.values().for_each(|value| walk(value, visit));
            }
            Value::Array(list) => list.iter().for_each(|value| walk(value, visit)),
            _ => {}
        }
    }
    let document = document("http://127.0.0.1:8080");
    assert_eq!(document["openapi"], "3.1.1");
    let mut used = BTreeSet::new();
    walk(&document, &mut |reference| {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        used.insert(reference.to_owned());
    });
    for kind in ["schemas", "parameters", "headers", "responses"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            assert!(used.contains(&format!("#/components/{kind}/{name}")), "{kind} {name} is not used");
        }
    }
    let mut names = BTreeMap::new();
    for (path, method, operation) in described(&document) {
        let name = operation["operationId"].as_str().expect("an operationId");
        assert_eq!(names.insert(name, (path.clone(), method)), None, "{name}");
        let in_path = path.matches('{').count();
        let parameters = document["paths"][path.as_str()]["parameters"].as_array().map_or(0, Vec::len);
        assert_eq!(parameters, in_path, "{path}");
    }
}

/// What a call takes in its query is what its description says: the refusal of an unknown parameter lists them.
#[tokio::test]
async fn every_parameter_is_described() {
    let app = App::open().await;
    app.put("/streams/a", "", &json!({"access": "open"})).await.ok(201);
    let asked = app.post("/subscriptions", "", &json!({"config": {"stream": "a"}})).await;
    let id = asked.text("id");
    let document = document("http://127.0.0.1:8080");
    for (path, method, operation) in described(&document) {
        // The two that strangers and orchestrators call take whatever is hung onto their URL.
        if matches!(path.as_str(), "/healthz" | "/readyz") {
            continue;
        }
        let mut wanted: BTreeSet<&str> = BTreeSet::new();
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let parameter = resolved(&document, parameter);
            if parameter["in"] == "query" {
                wanted.insert(parameter["name"].as_str().unwrap());
            }
        }
        let target = path.replace("{name}", "a").replace("{id}", &id) + "?zzzzzz=1";
        let method: Method = method.parse().unwrap();
        let body = match (path.as_str(), &method) {
            ("/subscriptions", &Method::POST) | ("/subscriptions/{id}", &Method::PUT) => {
                json!({"config": {"stream": "a"}})
            }
            ("/tokens", &Method::POST) => json!({"role": "reader"}),
            _ if method == Method::GET || method == Method::DELETE => Value::Null,
            _ => json!({}),
        };
        let refused = app.call(method.clone(), &target, &[], &body).await;
        refused.is(Code::UnknownParameter);
        let known: BTreeSet<&str> =
            refused.json["known"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        assert_eq!(known, wanted, "{method} {path}");
    }
}

#[tokio::test]
async fn paths_and_methods_that_do_not_exist_are_problems() {
    let app = App::open().await;
    for path in ["/", "/streams/a/b/c", "/streams/", "/nothing", "/subscriptions/"] {
        app.get(path, "").await.is(Code::NotFound);
    }
    let refused = app.call(Method::POST, "/streams/a", &[], &json!({})).await;
    refused.is(Code::MethodNotAllowed);
    assert_eq!(refused.header("allow"), "PUT, PATCH, GET, DELETE, HEAD, OPTIONS");
    let options = app.call(Method::OPTIONS, "/streams/a", &[], &Value::Null).await;
    options.ok(204);
    assert_eq!(options.header("allow"), "PUT, PATCH, GET, DELETE, HEAD, OPTIONS");
    let head = app.call(Method::HEAD, "/.well-known/flow", &[], &Value::Null).await;
    head.ok(200);
    assert_eq!(head.text, "");
}

#[tokio::test]
async fn every_answer_keeps_browsers_from_guessing() {
    let app = App::open().await;
    for path in ["/.well-known/flow", "/nothing", "/streams", "//"] {
        let reply = app.get(path, "").await;
        assert_eq!(reply.header("x-content-type-options"), "nosniff", "{path}");
    }
}
