//! The imposed form: what of an event's data leaves.
//!
//! `keep`, then `remove`, then `hash`, each by JSON pointers into the data; attributes always leave as they are.
//! Rules fail closed: data that a rule would look into and can't (it is no JSON) does not leave at all.

use std::hash::Hasher;

use serde_json::{Map, Value};
use siphasher::sip128::{Hasher128, SipHasher24};
use weir_event::{Data, Event};

use crate::control::descriptor::Pointer;
use crate::control::subscription::Form;

/// The event with what `form` lets leave of its data.
pub(super) fn apply<'a>(form: &Form, key: &[u8; 16], mut event: Event<'a>) -> Event<'a> {
    if !form.data {
        event.set_data(None);
        return event;
    }
    if form.keep.is_empty() && form.remove.is_empty() && form.hash.is_empty() {
        return event;
    }
    let data = event.data().filter(|_| event.is_json());
    let shaped =
        data.and_then(|data| serde_json::from_slice(&data.bytes).ok()).map(|value| shape(form, key, value));
    event.set_data(shaped.map(|value| Data::text(value.to_string())));
    event
}

fn shape(form: &Form, key: &[u8; 16], value: Value) -> Value {
    let mut value = if form.keep.is_empty() { value } else { kept(&form.keep, &value) };
    for pointer in &form.remove {
        remove(&mut value, pointer.tokens());
    }
    for pointer in &form.hash {
        if let Some(found) = find(&mut value, pointer.tokens()) {
            *found = Value::String(hashed(key, found));
        }
    }
    value
}

/// A value with only what the pointers name, in the place where it was. Array elements can't be kept one by one:
/// a pointer that leads through an array keeps nothing.
fn kept(pointers: &[Pointer], value: &Value) -> Value {
    let mut to = Value::Object(Map::new());
    for pointer in pointers {
        let Some(found) = pointer.find(value) else { continue };
        let Some((last, way)) = pointer.tokens().split_last() else { return value.clone() };
        let mut at = &mut to;
        let mut reached = true;
        for token in way {
            let Value::Object(members) = at else {
                reached = false;
                break;
            };
            at = members.entry(&**token).or_insert_with(|| Value::Object(Map::new()));
        }
        if let (true, Value::Object(members)) = (reached, at) {
            members.insert((**last).to_owned(), found.clone());
        }
    }
    to
}

fn remove(value: &mut Value, tokens: &[Box<str>]) {
    match tokens.split_last() {
        None => *value = Value::Null,
        Some((last, way)) => match find(value, way) {
            Some(Value::Object(members)) => {
                members.shift_remove(&**last);
            }
            Some(Value::Array(items)) => {
                if let Some(item) = last.parse::<usize>().ok().and_then(|index| items.get_mut(index)) {
                    *item = Value::Null;
                }
            }
            _ => {}
        },
    }
}

fn find<'v>(value: &'v mut Value, tokens: &[Box<str>]) -> Option<&'v mut Value> {
    tokens.iter().try_fold(value, |value, token| match value {
        Value::Object(members) => members.get_mut(&**token),
        Value::Array(items) => token.parse::<usize>().ok().and_then(|index| items.get_mut(index)),
        _ => None,
    })
}

/// The same text for the same value, within one subscription.
fn hashed(key: &[u8; 16], value: &Value) -> String {
    let mut hasher = SipHasher24::new_with_key(key);
    hasher.write(value.to_string().as_bytes());
    format!("{:032x}", hasher.finish128().as_u128())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pointers(texts: &[&str]) -> Box<[Pointer]> {
        texts.iter().map(|text| Pointer::parse(text).unwrap()).collect()
    }

    #[test]
    fn keep_then_remove_then_hash() {
        let form = Form {
            data: true,
            keep: pointers(&["/a", "/b/c", "/none"]),
            remove: pointers(&["/a/x"]),
            hash: pointers(&["/b/c"]),
        };
        let shaped =
            shape(&form, &[7; 16], json!({"a": {"x": 1, "y": 2}, "b": {"c": "secret", "d": 1}, "e": 1}));
        assert_eq!(shaped["a"], json!({"y": 2}));
        assert_eq!(shaped["b"].as_object().unwrap().len(), 1);
        assert!(shaped.get("e").is_none() && shaped.get("none").is_none());
        let hash = shaped["b"]["c"].as_str().unwrap();
        assert!(hash.len() == 32 && hash != "secret");
        let again = shape(&form, &[7; 16], json!({"b": {"c": "secret"}}));
        assert_eq!(again["b"]["c"], hash);
        let other = shape(&form, &[8; 16], json!({"b": {"c": "secret"}}));
        assert_ne!(other["b"]["c"], hash);
    }

    #[test]
    fn what_is_no_json_does_not_leave_if_a_rule_looks_into_it() {
        let mut event = Event::new("1", "/s", "t").unwrap();
        event.set("datacontenttype", "text/plain").unwrap();
        event.set_data(Some(Data::text("a secret")));
        let form = |remove: &[&str]| Form { data: true, remove: pointers(remove), ..Form::default() };
        assert!(apply(&form(&["/x"]), &[0; 16], event.clone()).data().is_none());
        assert!(apply(&form(&[]), &[0; 16], event.clone()).data().is_some());
        assert!(apply(&Form::default(), &[0; 16], event).data().is_none());
    }
}
