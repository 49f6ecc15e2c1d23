//! Text to tokens: `CESQLLexer.g4`, except that a sign is always a token of its own (the parser joins it to a
//! literal where no operator can stand, so that `4-1` subtracts). Keywords are recognised in any case.

use super::ParseError;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Open,
    Close,
    Comma,
    Star,
    Slash,
    Percent,
    Plus,
    Minus,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    And,
    Or,
    Xor,
    Not,
    Like,
    Exists,
    In,
    True,
    False,
    /// Quotes included.
    String,
    /// Digits only.
    Integer,
    /// Letters and digits, at least one letter, no keyword: an attribute, or a function if a `(` follows.
    Name,
    /// Letters and at least one underscore: a function.
    Function,
    End,
}

/// The words that can be no attribute.
pub(super) const KEYWORDS: [(&str, Kind); 9] = [
    ("AND", Kind::And),
    ("OR", Kind::Or),
    ("XOR", Kind::Xor),
    ("NOT", Kind::Not),
    ("LIKE", Kind::Like),
    ("EXISTS", Kind::Exists),
    ("IN", Kind::In),
    ("TRUE", Kind::True),
    ("FALSE", Kind::False),
];

/// One token: its kind, its text and where it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'t> {
    pub(super) kind: Kind,
    pub(super) text: &'t str,
    pub(super) offset: usize,
}

impl Token<'_> {
    /// Where it ends.
    pub(super) fn end(&self) -> usize {
        self.offset + self.text.len()
    }

    /// The token as an error message shows it.
    pub(super) fn shown(&self) -> String {
        if self.kind == Kind::End {
            return "the end".to_owned();
        }
        const SHOWN_CHARS: usize = 40;
        let mut shown = String::from("`");
        for (at, c) in self.text.chars().enumerate() {
            match c {
                _ if at == SHOWN_CHARS => {
                    shown.push('…');
                    break;
                }
                // Messages stay on one line.
                c if c.is_control() => shown.extend(c.escape_debug()),
                c => shown.push(c),
            }
        }
        shown + "`"
    }
}

/// Gives one token after the other, [`Kind::End`] at the end and ever after.
pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn next(&mut self) -> Result<Token<'t>, ParseError> {
        let rest = self.text[self.at..].trim_start_matches([' ', '\t', '\r', '\n']);
        let offset = self.text.len() - rest.len();
        let (kind, len) = self.scan(rest, offset)?;
        self.at = offset + len;
        Ok(Token { kind, text: &rest[..len], offset })
    }

    /// The kind and the length of the token that `rest` begins with.
    fn scan(&self, rest: &str, offset: usize) -> Result<(Kind, usize), ParseError> {
        let Some(first) = rest.chars().next() else {
            return Ok((Kind::End, 0));
        };
        let second = rest.as_bytes().get(1);
        Ok(match first {
            '(' => (Kind::Open, 1),
            ')' => (Kind::Close, 1),
            ',' => (Kind::Comma, 1),
            '*' => (Kind::Star, 1),
            '/' => (Kind::Slash, 1),
            '%' => (Kind::Percent, 1),
            '+' => (Kind::Plus, 1),
            '-' => (Kind::Minus, 1),
            '=' => (Kind::Equal, 1),
            '!' if second == Some(&b'=') => (Kind::NotEqual, 2),
            '<' if second == Some(&b'>') => (Kind::NotEqual, 2),
            '<' if second == Some(&b'=') => (Kind::LessOrEqual, 2),
            '<' => (Kind::Less, 1),
            '>' if second == Some(&b'=') => (Kind::GreaterOrEqual, 2),
            '>' => (Kind::Greater, 1),
            '\'' | '"' => (Kind::String, self.string(rest, offset, first)?),
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => self.word(rest, offset)?,
            other => return Err(self.unexpected(other, offset)),
        })
    }

    /// The length of the string literal that `rest` begins with, both quotes included.
    fn string(&self, rest: &str, offset: usize, quote: char) -> Result<usize, ParseError> {
        let bytes = rest.as_bytes();
        let quote_byte = quote as u8;
        let mut at = 1;
        while let Some(&byte) = bytes.get(at) {
            if byte == b'\\' {
                at += 2; // Whatever is escaped does not end the literal.
            } else if byte != quote_byte {
                at += 1;
            } else if bytes.get(at + 1) == Some(&quote_byte) {
                at += 2;
            } else {
                return Ok(at + 1);
            }
        }
        let error = ParseError::new(self.text, offset, format!("a closing {quote}"), "the end");
        Err(match bytes.ends_with(&[b'\\', quote_byte]) {
            true => error.hint(format!(r"\{quote} is a quote within the string")),
            false => error,
        })
    }

    /// The kind and the length of the name, keyword or number that `rest` begins with.
    fn word(&self, rest: &str, offset: usize) -> Result<(Kind, usize), ParseError> {
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let len = rest.bytes().position(|b| !is_word(b)).unwrap_or(rest.len());
        let word = &rest[..len];
        if word.bytes().all(|b| b.is_ascii_digit()) {
            return Ok((Kind::Integer, len));
        }
        if word.contains('_') {
            let well_formed = !word.starts_with('_') && !word.bytes().any(|b| b.is_ascii_digit());
            if well_formed {
                return Ok((Kind::Function, len));
            }
            let token = Token { kind: Kind::Name, text: word, offset };
            return Err(ParseError::new(self.text, offset, "an expression", token.shown())
                .hint("attribute names are letters and digits, function names letters and underscores"));
        }
        let keyword = KEYWORDS.iter().find(|(keyword, _)| word.eq_ignore_ascii_case(keyword));
        Ok((keyword.map_or(Kind::Name, |&(_, kind)| kind), len))
    }

    fn unexpected(&self, found: char, offset: usize) -> ParseError {
        let shown = match found {
            c if c.is_control() || c.is_whitespace() => format!("the character U+{:04X}", u32::from(c)),
            c => format!("`{c}`"),
        };
        let error = ParseError::new(self.text, offset, "an operator or an expression", shown);
        match found {
            '!' => error.hint("unequal is written !=, negation NOT"),
            '&' => error.hint("did you mean AND?"),
            '|' => error.hint("did you mean OR?"),
            '^' => error.hint("did you mean XOR?"),
            '.' => error.hint(
                "names have no dots, and an expression sees only the attributes of an event, not its data",
            ),
            '‘' | '’' | '“' | '”' | '`' => error.hint("strings stand in straight quotes: 'text'"),
            c if c.is_alphabetic() => error.hint("text stands in quotes: 'text'"),
            _ => error,
        }
    }
}
