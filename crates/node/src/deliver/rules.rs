//! What one delivery lets through and in which form: the consumer's filters, the producer's, and the imposed form.
//!
//! Rules are compared by [`Rules::id`]: deliveries under equal rules share the choice of events and its encodings.
//! The id is a keyed 128-bit hash of the rules' canonical text under a key that is drawn at start, so that nobody
//! can make rules that pass for someone else's.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use siphasher::sip128::{Hasher128, SipHasher24};
use weir_event::Event;

use super::form;
use crate::control::subscription::Form;
use crate::control::{Filters, Reader};

/// Compiled rules.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    filters: Vec<Arc<Filters>>,
    form: Option<(Arc<Form>, [u8; 16])>,
    id: u128,
}

impl Rules {
    /// The rules of a reader, and what one read wants to see of it.
    pub(crate) fn of(reader: &Reader, wanted: Option<&Arc<Filters>>) -> Self {
        let given = [wanted, reader.filters.as_ref(), reader.imposed_filters.as_ref(), reader.scope.as_ref()];
        let filters: Vec<Arc<Filters>> =
            given.into_iter().flatten().filter(|filters| !filters.is_all()).cloned().collect();
        let form = reader.form.clone().map(|form| (form, reader.form_key));
        let id = identify(&filters, form.as_ref());
        Self { filters, form, id }
    }

    /// Rules of one filter.
    #[cfg(test)]
    pub(crate) fn test(filter: Filters) -> Self {
        let filters = vec![Arc::new(filter)];
        Self { id: identify(&filters, None), filters, form: None }
    }

    /// Whether every event passes as it is.
    pub(crate) fn is_empty(&self) -> bool {
        self.filters.is_empty() && self.form.is_none()
    }

    /// Whether events leave in another form than they are stored.
    pub(crate) fn reshape(&self) -> bool {
        self.form.is_some()
    }

    /// Equal for equal rules, different for others.
    pub(crate) fn id(&self) -> u128 {
        self.id
    }

    /// Whether an event passes.
    pub(crate) fn take(&self, event: &Event<'_>) -> bool {
        self.filters.iter().all(|filters| filters.matches(event))
    }

    /// The event as it leaves.
    pub(crate) fn shape<'a>(&self, event: Event<'a>) -> Event<'a> {
        match &self.form {
            Some((form, key)) => form::apply(form, key, event),
            None => event,
        }
    }
}

fn identify(filters: &[Arc<Filters>], form: Option<&(Arc<Form>, [u8; 16])>) -> u128 {
    static KEY: OnceLock<[u8; 16]> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        let mut key = [0; 16];
        // Without randomness the ids stay right, only guessable.
        let _ = getrandom::fill(&mut key);
        key
    });
    let mut hasher = SipHasher24::new_with_key(key);
    for filters in filters {
        filters.hash(&mut hasher);
    }
    if let Some((form, key)) = form {
        let text: Cow<'_, str> = format!("{form:?}").into();
        hasher.write(text.as_bytes());
        hasher.write(key);
    }
    hasher.finish128().as_u128()
}
