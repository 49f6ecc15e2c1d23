//! `LIKE` patterns (section 3.4.3), prepared once and matched in linear time.
//!
//! A pattern is cut at its `%`. The first and the last piece stand at the ends of the text; of those between,
//! each is taken at its leftmost place after the one before, which is always right, since each matches a fixed
//! number of characters. A piece without `_` is found as a substring; one with `_` by running through the text
//! once with a bit for each of its characters (shift-and), hence [`LIKE_GAP_MAX`].

use memchr::memmem::Finder;

use super::LIKE_GAP_MAX;

/// A prepared pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    head: Piece,
    /// What follows the first `%`, if there is one.
    rest: Option<Rest>,
}

#[derive(Clone, Debug)]
struct Rest {
    middle: Box<[Floating]>,
    tail: Piece,
}

/// A piece whose place in the text is known.
#[derive(Clone, Debug)]
enum Piece {
    /// Nothing: the pattern begins or ends with `%`. On its own because comparing no bytes with those of an
    /// empty box, which lie nowhere, costs some processors 80 ns.
    Empty,
    Literal(Box<str>),
    /// `None` is `_`.
    Wild(Box<[Option<char>]>),
}

/// A piece to be searched.
#[derive(Clone, Debug)]
enum Floating {
    Literal(Box<Finder<'static>>),
    Wild(Box<ShiftAnd>),
}

/// For each character the places of the piece, as bits, where it may stand.
#[derive(Clone, Debug)]
struct ShiftAnd {
    /// The places of `_`.
    any: u64,
    /// Sorted by character.
    places: Box<[(char, u64)]>,
    /// The bit of the last place.
    last: u64,
}

impl Pattern {
    /// Prepares a pattern. Error: so many characters stand between two `%`, among them `_`, that is more than
    /// [`LIKE_GAP_MAX`].
    pub(super) fn new(pattern: &str) -> Result<Self, usize> {
        let mut pieces = cut(pattern).into_iter();
        let head = Piece::new(pieces.next().unwrap_or_default());
        let Some(tail) = pieces.next_back() else {
            return Ok(Self { head, rest: None });
        };
        let middle = pieces.filter(|piece| !piece.is_empty()).map(Floating::new).collect::<Result<_, _>>()?;
        Ok(Self { head, rest: Some(Rest { middle, tail: Piece::new(tail) }) })
    }

    /// Whether the whole of `text` matches.
    pub(super) fn matches(&self, text: &str) -> bool {
        let Some(text) = self.head.strip_front(text) else {
            return false;
        };
        let Some(Rest { middle, tail }) = &self.rest else {
            return text.is_empty();
        };
        let Some(mut text) = tail.strip_back(text) else {
            return false;
        };
        middle.iter().all(|piece| match piece.end_in(text) {
            Some(end) => {
                text = &text[end..];
                true
            }
            None => false,
        })
    }
}

/// The pieces between the `%` of a pattern, escapes resolved; one more than there are `%`.
fn cut(pattern: &str) -> Vec<Vec<Option<char>>> {
    let mut pieces = vec![Vec::new()];
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        let item = match (c, chars.peek()) {
            ('\\', Some(&escaped @ ('%' | '_'))) => {
                chars.next();
                Some(escaped)
            }
            ('%', _) => {
                pieces.push(Vec::new());
                continue;
            }
            ('_', _) => None,
            (c, _) => Some(c),
        };
        if let Some(piece) = pieces.last_mut() {
            piece.push(item);
        }
    }
    pieces
}

impl Piece {
    fn new(piece: Vec<Option<char>>) -> Self {
        match piece.iter().copied().collect::<Option<String>>() {
            Some(literal) if literal.is_empty() => Piece::Empty,
            Some(literal) => Piece::Literal(literal.into()),
            None => Piece::Wild(piece.into()),
        }
    }

    /// What follows this piece at the start of `text`.
    fn strip_front<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            Piece::Empty => Some(text),
            Piece::Literal(literal) => text.strip_prefix(&**literal),
            Piece::Wild(piece) => {
                let mut chars = text.chars();
                let fits = piece.iter().all(|item| accepts(*item, chars.next()));
                fits.then_some(chars.as_str())
            }
        }
    }

    /// What precedes this piece at the end of `text`.
    fn strip_back<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            Piece::Empty => Some(text),
            Piece::Literal(literal) => text.strip_suffix(&**literal),
            Piece::Wild(piece) => {
                let mut chars = text.chars();
                let fits = piece.iter().rev().all(|item| accepts(*item, chars.next_back()));
                fits.then_some(chars.as_str())
            }
        }
    }
}

fn accepts(item: Option<char>, found: Option<char>) -> bool {
    found.is_some() && (item.is_none() || item == found)
}

impl Floating {
    fn new(piece: Vec<Option<char>>) -> Result<Self, usize> {
        match piece.iter().copied().collect::<Option<String>>() {
            Some(literal) => Ok(Floating::Literal(Box::new(Finder::new(&literal).into_owned()))),
            None if piece.len() > LIKE_GAP_MAX => Err(piece.len()),
            None => Ok(Floating::Wild(Box::new(ShiftAnd::new(&piece)))),
        }
    }

    /// Where the leftmost occurrence in `text` ends.
    fn end_in(&self, text: &str) -> Option<usize> {
        match self {
            Floating::Literal(finder) => {
                finder.find(text.as_bytes()).map(|start| start + finder.needle().len())
            }
            Floating::Wild(piece) => piece.end_in(text),
        }
    }
}

impl ShiftAnd {
    /// The piece has from one to 64 items.
    fn new(piece: &[Option<char>]) -> Self {
        let mut any = 0;
        let mut places: Vec<(char, u64)> = Vec::new();
        for (at, item) in piece.iter().enumerate() {
            let bit = 1 << at;
            match item {
                None => any |= bit,
                Some(c) => match places.binary_search_by_key(c, |&(known, _)| known) {
                    Ok(found) => places[found].1 |= bit,
                    Err(gap) => places.insert(gap, (*c, bit)),
                },
            }
        }
        Self { any, places: places.into(), last: 1 << (piece.len() - 1) }
    }

    fn end_in(&self, text: &str) -> Option<usize> {
        // Bit n is set while the piece's first n + 1 items match what ends at the current character.
        let mut matched = 0_u64;
        text.char_indices().find_map(|(at, c)| {
            let found = self.places.binary_search_by_key(&c, |&(known, _)| known);
            let allowed = self.any | found.map_or(0, |found| self.places[found].1);
            matched = (matched << 1 | 1) & allowed;
            (matched & self.last != 0).then(|| at + c.len_utf8())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, exponential in bad cases.
    fn reference(pattern: &[char], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['%', rest @ ..] => (0..=text.len()).any(|skip| reference(rest, &text[skip..])),
            ['_', rest @ ..] => !text.is_empty() && reference(rest, &text[1..]),
            ['\\', c @ ('%' | '_'), rest @ ..] | [c, rest @ ..] => {
                text.first() == Some(c) && reference(rest, &text[1..])
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn matches_what_the_definition_matches(pattern in r"[ab%_é\\]{0,8}", text in r"[ab%_é\\]{0,10}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            let expected = reference(&chars(&pattern), &chars(&text));
            prop_assert_eq!(Pattern::new(&pattern).unwrap().matches(&text), expected);
        }
    }

    #[test]
    fn gaps_with_underscores_are_bounded() {
        let gap = format!("%a{}%", "_".repeat(LIKE_GAP_MAX - 1));
        let pattern = Pattern::new(&gap).unwrap();
        assert!(pattern.matches(&format!("xxa{}", "é".repeat(LIKE_GAP_MAX - 1))));
        assert!(!pattern.matches(&format!("xxa{}", "é".repeat(LIKE_GAP_MAX - 2))));
        assert_eq!(Pattern::new(&format!("%a{}%", "_".repeat(LIKE_GAP_MAX))).unwrap_err(), LIKE_GAP_MAX + 1);
        // At the ends and without underscores there is no limit.
        let long = "a".repeat(1000);
        assert!(Pattern::new(&format!("%{long}%")).unwrap().matches(&long));
        assert!(Pattern::new(&format!("_{long}%{long}_")).unwrap().matches(&format!("x{long}{long}x")));
    }
}
