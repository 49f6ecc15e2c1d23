//! A set of names that notices the second of a kind, at no allocation for the events that occur.
//!
//! Formats that carry attributes as a map must refuse a name that stands twice, because two readers would pick
//! different ones. An event has a handful of attributes, so the first [`Names::FEW`] are compared one by one;
//! whoever sends thousands pays with a hash set and not with quadratic time.

use std::borrow::Cow;
use std::collections::HashSet;

/// Names seen so far.
#[derive(Default)]
pub(crate) struct Names<'a> {
    few: [&'a str; Names::FEW],
    count: usize,
    rest: Option<HashSet<Cow<'a, str>>>,
}

impl<'a> Names<'a> {
    const FEW: usize = 16;

    /// Adds a name; false if it was there.
    pub(crate) fn insert(&mut self, name: Cow<'a, str>) -> bool {
        if self.few[..self.count].contains(&&*name) {
            return false;
        }
        match name {
            Cow::Borrowed(name) if self.count < Self::FEW && self.rest.is_none() => {
                self.few[self.count] = name;
                self.count += 1;
                true
            }
            name => self.rest.get_or_insert_default().insert(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_of_a_name_is_noticed_wherever_the_first_went() {
        let all: Vec<String> = (0..100).map(|n| format!("a{n}")).collect();
        for owned in [3, 20, 200] {
            let mut names = Names::default();
            let mut insert = |at: usize| {
                let name = &all[at];
                names.insert(if at == owned { Cow::Owned(name.clone()) } else { Cow::Borrowed(name) })
            };
            assert!((0..100).all(&mut insert));
            assert!(!(0..100).any(&mut insert));
        }
    }
}
