//! Tokens to a tree, by precedence climbing, and the tree back to its normal text.
//!
//! From loose to tight (section 3.6): `AND OR XOR`; comparisons; `+ -`; `* / %`; `IN`; `LIKE`; `-` and `NOT`.
//! All but the last associate to the left. `NOT x = 'a'` is therefore `(NOT x) = 'a'`: the specification's
//! order, not that of other SQLs.

use std::fmt;

use super::lexer::{KEYWORDS, Kind, Lexer, Token};
use super::{BYTES_MAX, DEPTH_MAX, NODES_MAX, ParseError, nearest};

/// An expression as written, without parentheses.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ast {
    Boolean(bool),
    Integer(i32),
    String(Box<str>),
    Attribute(Box<str>),
    Exists(Box<str>),
    Not(Box<Ast>),
    Negate(Box<Ast>),
    Binary(Binary, Box<Ast>, Box<Ast>),
    /// A row of operands with the same operator between them; two at least.
    Logic(Logic, Vec<Ast>),
    Like {
        operand: Box<Ast>,
        pattern: Box<str>,
        negated: bool,
        offset: usize,
    },
    In {
        operand: Box<Ast>,
        set: Vec<Ast>,
        negated: bool,
    },
    /// The name is in capitals.
    Call {
        name: Box<str>,
        arguments: Vec<Ast>,
        offset: usize,
    },
}

/// The operators between two numbers, or two values to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Multiply,
    Divide,
    Remainder,
    Add,
    Subtract,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The operators between Booleans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logic {
    And,
    Or,
    Xor,
}

/// Precedences: a larger number binds tighter.
mod binding {
    pub(super) const LOGIC: u8 = 1;
    pub(super) const COMPARISON: u8 = 2;
    pub(super) const ADDITIVE: u8 = 3;
    pub(super) const MULTIPLICATIVE: u8 = 4;
    pub(super) const IN: u8 = 5;
    pub(super) const LIKE: u8 = 6;
    pub(super) const UNARY: u8 = 7;
    pub(super) const ATOM: u8 = 8;
}

impl Binary {
    fn of(kind: Kind) -> Option<Self> {
        Some(match kind {
            Kind::Star => Binary::Multiply,
            Kind::Slash => Binary::Divide,
            Kind::Percent => Binary::Remainder,
            Kind::Plus => Binary::Add,
            Kind::Minus => Binary::Subtract,
            Kind::Equal => Binary::Equal,
            Kind::NotEqual => Binary::NotEqual,
            Kind::Less => Binary::Less,
            Kind::LessOrEqual => Binary::LessOrEqual,
            Kind::Greater => Binary::Greater,
            Kind::GreaterOrEqual => Binary::GreaterOrEqual,
            _ => return None,
        })
    }

    fn binding(self) -> u8 {
        match self {
            Binary::Multiply | Binary::Divide | Binary::Remainder => binding::MULTIPLICATIVE,
            Binary::Add | Binary::Subtract => binding::ADDITIVE,
            _ => binding::COMPARISON,
        }
    }

    pub(super) fn symbol(self) -> &'static str {
        match self {
            Binary::Multiply => "*",
            Binary::Divide => "/",
            Binary::Remainder => "%",
            Binary::Add => "+",
            Binary::Subtract => "-",
            Binary::Equal => "=",
            Binary::NotEqual => "!=",
            Binary::Less => "<",
            Binary::LessOrEqual => "<=",
            Binary::Greater => ">",
            Binary::GreaterOrEqual => ">=",
        }
    }
}

impl Logic {
    fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::And => Some(Logic::And),
            Kind::Or => Some(Logic::Or),
            Kind::Xor => Some(Logic::Xor),
            _ => None,
        }
    }

    fn symbol(self) -> &'static str {
        match self {
            Logic::And => "AND",
            Logic::Or => "OR",
            Logic::Xor => "XOR",
        }
    }
}

/// Parses a whole text.
pub(super) fn parse(text: &str) -> Result<Ast, ParseError> {
    if text.len() > BYTES_MAX {
        let expected = format!("an expression of at most {BYTES_MAX} bytes");
        return Err(ParseError::new(text, 0, expected, format!("{} bytes", text.len())));
    }
    let mut lexer = Lexer::new(text);
    let token = lexer.next()?;
    let mut parser = Parser { text, lexer, token, open: 0, nodes: 0 };
    let tree = parser.expression(binding::LOGIC)?;
    match parser.token.kind {
        Kind::End => Ok(tree.ast),
        _ => Err(parser.after_operand("an operator or the end")),
    }
}

/// A part of the expression and how many levels it has: trees are walked by recursion.
struct Tree {
    ast: Ast,
    height: usize,
}

struct Parser<'t> {
    text: &'t str,
    lexer: Lexer<'t>,
    /// The token to look at next.
    token: Token<'t>,
    /// How many expressions are open around the current one.
    open: usize,
    nodes: usize,
}

impl<'t> Parser<'t> {
    /// An expression up to the first operator that binds looser than `min`.
    fn expression(&mut self, min: u8) -> Result<Tree, ParseError> {
        let mut left = self.prefix()?;
        while let Some(tree) = self.infix(&mut left, min)? {
            left = tree;
        }
        Ok(left)
    }

    /// An expression within another one's brackets or under its unary operator. Recursion beside these is no
    /// deeper than there are precedences.
    fn nested(&mut self, min: u8) -> Result<Tree, ParseError> {
        self.open += 1;
        if self.open >= DEPTH_MAX {
            return Err(self.too_deep(self.token.offset));
        }
        let tree = self.expression(min)?;
        self.open -= 1;
        Ok(tree)
    }

    /// Whatever can begin an expression.
    fn prefix(&mut self) -> Result<Tree, ParseError> {
        let token = self.token;
        match token.kind {
            Kind::Open => {
                self.advance()?;
                let inner = self.nested(binding::LOGIC)?;
                self.close("an operator or `)`")?;
                Ok(inner)
            }
            Kind::Not => {
                self.advance()?;
                let operand = self.nested(binding::UNARY)?;
                let height = operand.height + 1;
                self.node(Ast::Not(Box::new(operand.ast)), height, token.offset)
            }
            Kind::Plus | Kind::Minus => self.sign(token),
            Kind::True | Kind::False => {
                self.advance()?;
                self.node(Ast::Boolean(token.kind == Kind::True), 1, token.offset)
            }
            Kind::Integer => {
                let integer = self.integer(token.text, token.offset)?;
                self.node(integer, 1, token.offset)
            }
            Kind::String => {
                self.advance()?;
                self.node(Ast::String(unquote(token.text)), 1, token.offset)
            }
            Kind::Exists => {
                self.advance()?;
                let name = self.token;
                if name.kind != Kind::Name {
                    return Err(self.unexpected("the name of an attribute"));
                }
                self.advance()?;
                self.node(Ast::Exists(name.text.to_ascii_lowercase().into()), 1, token.offset)
            }
            Kind::Name | Kind::Function => self.name(token),
            _ => Err(self.unexpected("an expression")),
        }
    }

    /// A sign: part of the integer that follows immediately, else the operator `-`.
    fn sign(&mut self, sign: Token<'t>) -> Result<Tree, ParseError> {
        self.advance()?;
        if self.token.kind == Kind::Integer && self.token.offset == sign.end() {
            let literal = &self.text[sign.offset..self.token.end()];
            let integer = self.integer(literal, sign.offset)?;
            return self.node(integer, 1, sign.offset);
        }
        if sign.kind == Kind::Plus {
            return Err(ParseError::new(self.text, sign.offset, "an expression", "`+`"));
        }
        let operand = self.nested(binding::UNARY)?;
        self.node(Ast::Negate(Box::new(operand.ast)), operand.height + 1, sign.offset)
    }

    /// An integer literal with its sign, the current token being its digits.
    fn integer(&mut self, literal: &str, offset: usize) -> Result<Ast, ParseError> {
        let value = literal.parse().map_err(|_| {
            let found = Token { kind: Kind::Integer, text: literal, offset }.shown();
            ParseError::new(self.text, offset, "an integer from -2147483648 to 2147483647", found)
        })?;
        self.advance()?;
        Ok(Ast::Integer(value))
    }

    /// An attribute or a function call.
    fn name(&mut self, name: Token<'t>) -> Result<Tree, ParseError> {
        self.advance()?;
        if self.token.kind != Kind::Open {
            if name.kind == Kind::Function {
                return Err(self.unexpected("`(`").hint("attribute names have no underscores"));
            }
            return self.node(Ast::Attribute(name.text.to_ascii_lowercase().into()), 1, name.offset);
        }
        if name.text.bytes().any(|b| b.is_ascii_digit()) {
            let expected = "the name of a function, which is letters and underscores";
            return Err(ParseError::new(self.text, name.offset, expected, name.shown()));
        }
        self.advance()?;
        let (arguments, height) = match self.token.kind {
            Kind::Close => {
                self.advance()?;
                (Vec::new(), 0)
            }
            _ => self.list()?,
        };
        let name_in_capitals = name.text.to_ascii_uppercase().into();
        let call = Ast::Call { name: name_in_capitals, arguments, offset: name.offset };
        self.node(call, height + 1, name.offset)
    }

    /// Expressions separated by commas and the `)` after them; the `(` is behind. Also their greatest height.
    fn list(&mut self) -> Result<(Vec<Ast>, usize), ParseError> {
        let mut list = Vec::new();
        let mut height = 0;
        loop {
            let tree = self.nested(binding::LOGIC)?;
            height = height.max(tree.height);
            list.push(tree.ast);
            if self.token.kind != Kind::Comma {
                self.close("an operator, `,` or `)`")?;
                return Ok((list, height));
            }
            self.advance()?;
        }
    }

    /// If an operator follows that binds at least as tight as `min`: it with what it belongs to.
    fn infix(&mut self, left: &mut Tree, min: u8) -> Result<Option<Tree>, ParseError> {
        let token = self.token;
        if let Some(operator) = Binary::of(token.kind) {
            if operator.binding() < min {
                return Ok(None);
            }
            self.advance()?;
            let right = self.expression(operator.binding() + 1)?;
            let height = left.height.max(right.height) + 1;
            let binary = Ast::Binary(operator, Box::new(left.take()), Box::new(right.ast));
            return self.node(binary, height, token.offset).map(Some);
        }
        if let Some(operator) = Logic::of(token.kind) {
            if binding::LOGIC < min {
                return Ok(None);
            }
            self.advance()?;
            let right = self.expression(binding::LOGIC + 1)?;
            return self.logic(operator, left, right, token.offset).map(Some);
        }
        if !matches!(token.kind, Kind::Not | Kind::Like | Kind::In) || binding::IN < min {
            return Ok(None);
        }
        let negated = token.kind == Kind::Not;
        if negated {
            self.advance()?;
        }
        match self.token.kind {
            Kind::Like => self.like(left, negated).map(Some),
            Kind::In => self.set(left, negated).map(Some),
            _ => Err(self.unexpected("LIKE or IN after NOT")),
        }
    }

    /// Joins two operands, or adds one to the row on the left if that is of the same operator. A row in
    /// parentheses becomes part of the row as well: evaluating it left to right makes no difference.
    fn logic(
        &mut self,
        operator: Logic,
        left: &mut Tree,
        right: Tree,
        at: usize,
    ) -> Result<Tree, ParseError> {
        let left_height = left.height;
        match left.take() {
            Ast::Logic(same, mut operands) if same == operator => {
                operands.push(right.ast);
                self.node(Ast::Logic(operator, operands), left_height.max(right.height + 1), at)
            }
            other => {
                let height = left_height.max(right.height) + 1;
                self.node(Ast::Logic(operator, vec![other, right.ast]), height, at)
            }
        }
    }

    fn like(&mut self, left: &mut Tree, negated: bool) -> Result<Tree, ParseError> {
        let offset = self.token.offset;
        self.advance()?;
        let pattern = self.token;
        if pattern.kind != Kind::String {
            return Err(self.unexpected("a string literal, which the pattern of LIKE must be"));
        }
        self.advance()?;
        let height = left.height + 1;
        let operand = Box::new(left.take());
        let pattern = Ast::Like { operand, pattern: unquote(pattern.text), negated, offset: pattern.offset };
        self.node(pattern, height, offset)
    }

    fn set(&mut self, left: &mut Tree, negated: bool) -> Result<Tree, ParseError> {
        let offset = self.token.offset;
        self.advance()?;
        if self.token.kind != Kind::Open {
            return Err(self.unexpected("`(` and the elements of the set"));
        }
        self.advance()?;
        let (set, height) = self.list()?;
        let height = height.max(left.height) + 1;
        self.node(Ast::In { operand: Box::new(left.take()), set, negated }, height, offset)
    }

    fn node(&mut self, ast: Ast, height: usize, offset: usize) -> Result<Tree, ParseError> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            let expected = format!("an expression of at most {NODES_MAX} parts");
            return Err(ParseError::new(self.text, offset, expected, "more"));
        }
        if height > DEPTH_MAX {
            return Err(self.too_deep(offset));
        }
        Ok(Tree { ast, height })
    }

    fn advance(&mut self) -> Result<(), ParseError> {
        self.token = self.lexer.next()?;
        Ok(())
    }

    fn close(&mut self, expected: &str) -> Result<(), ParseError> {
        match self.token.kind {
            Kind::Close => self.advance(),
            _ => Err(self.after_operand(expected)),
        }
    }

    fn unexpected(&self, expected: &str) -> ParseError {
        let error = ParseError::new(self.text, self.token.offset, expected, self.token.shown());
        let before = self.text[..self.token.offset].trim_end();
        match self.token.kind {
            Kind::Equal if before.ends_with('=') => error.hint("equality is written with one ="),
            _ => error,
        }
    }

    /// The error for a token that cannot follow a complete expression.
    fn after_operand(&self, expected: &str) -> ParseError {
        let error = self.unexpected(expected);
        if self.token.kind != Kind::Name {
            return error;
        }
        let word = self.token.text;
        if word.eq_ignore_ascii_case("is") {
            return error.hint("whether an attribute is there is asked with EXISTS name, NOT EXISTS name");
        }
        if word.eq_ignore_ascii_case("between") {
            return error.hint("a range is written x >= 1 AND x <= 9");
        }
        match nearest(word, KEYWORDS[..7].iter().map(|&(keyword, _)| keyword)) {
            Some(keyword) => error.hint(format!("did you mean {keyword}?")),
            None => error,
        }
    }

    fn too_deep(&self, offset: usize) -> ParseError {
        let expected = format!("at most {DEPTH_MAX} levels of nesting");
        ParseError::new(self.text, offset, expected, "one more")
    }
}

impl Tree {
    /// The tree, leaving a trifle in its place.
    fn take(&mut self) -> Ast {
        std::mem::replace(&mut self.ast, Ast::Boolean(false))
    }
}

/// The value of a string literal: its quotes taken off, escaped and doubled quotes resolved.
fn unquote(literal: &str) -> Box<str> {
    let mut chars = literal.chars();
    let Some(quote) = chars.next() else {
        return "".into();
    };
    chars.next_back();
    let mut value = String::with_capacity(literal.len());
    while let Some(c) = chars.next() {
        if c == '\\' {
            // Only the literal's own quote loses its backslash; patterns need the others.
            match chars.next() {
                Some(escaped) if escaped == quote => value.push(quote),
                Some(escaped) => value.extend(['\\', escaped]),
                None => value.push('\\'),
            }
        } else {
            if c == quote {
                chars.next(); // The second of a doubled quote.
            }
            value.push(c);
        }
    }
    value.into()
}

/// A literal with that value. Not every text has one in both quotes: a backslash before the quote is in the way.
fn quote(value: &str) -> String {
    let single = format!("'{}'", value.replace('\'', r"\'"));
    if *unquote(&single) == *value { single } else { format!("\"{}\"", value.replace('"', "\\\"")) }
}

impl Ast {
    fn binding(&self) -> u8 {
        match self {
            Ast::Logic(..) => binding::LOGIC,
            Ast::Binary(operator, ..) => operator.binding(),
            Ast::In { .. } => binding::IN,
            Ast::Like { .. } => binding::LIKE,
            Ast::Not(_) | Ast::Negate(_) => binding::UNARY,
            _ => binding::ATOM,
        }
    }

    /// Writes a left operand. Other SQLs take `NOT x = y` for `NOT (x = y)`: where it is `(NOT x) = y`, say so.
    fn write_left(&self, f: &mut fmt::Formatter<'_>, min: u8) -> fmt::Result {
        self.write(f, if matches!(self, Ast::Not(_)) { binding::ATOM } else { min })
    }

    /// Writes the expression, in parentheses if it binds looser than `min`.
    fn write(&self, f: &mut fmt::Formatter<'_>, min: u8) -> fmt::Result {
        if self.binding() < min {
            f.write_str("(")?;
            self.write(f, binding::LOGIC)?;
            return f.write_str(")");
        }
        match self {
            Ast::Boolean(value) => f.write_str(if *value { "TRUE" } else { "FALSE" }),
            Ast::Integer(value) => write!(f, "{value}"),
            Ast::String(value) => f.write_str(&quote(value)),
            Ast::Attribute(name) => f.write_str(name),
            Ast::Exists(name) => write!(f, "EXISTS {name}"),
            Ast::Not(operand) => {
                f.write_str("NOT ")?;
                operand.write(f, binding::UNARY)
            }
            Ast::Negate(operand) => {
                // Without the space this would read as one literal.
                f.write_str(if matches!(**operand, Ast::Integer(0..)) { "- " } else { "-" })?;
                operand.write(f, binding::UNARY)
            }
            Ast::Binary(operator, left, right) => {
                left.write_left(f, operator.binding())?;
                write!(f, " {} ", operator.symbol())?;
                right.write(f, operator.binding() + 1)
            }
            Ast::Logic(operator, operands) => {
                for (at, operand) in operands.iter().enumerate() {
                    if at > 0 {
                        write!(f, " {} ", operator.symbol())?;
                    }
                    operand.write(f, binding::LOGIC + 1)?;
                }
                Ok(())
            }
            Ast::Like { operand, pattern, negated, .. } => {
                operand.write_left(f, binding::IN)?;
                write!(f, " {}LIKE {}", if *negated { "NOT " } else { "" }, quote(pattern))
            }
            Ast::In { operand, set, negated } => {
                operand.write_left(f, binding::IN)?;
                f.write_str(if *negated { " NOT IN (" } else { " IN (" })?;
                write_list(f, set)
            }
            Ast::Call { name, arguments, .. } => {
                write!(f, "{name}(")?;
                write_list(f, arguments)
            }
        }
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, list: &[Ast]) -> fmt::Result {
    for (at, element) in list.iter().enumerate() {
        if at > 0 {
            f.write_str(", ")?;
        }
        element.write(f, binding::LOGIC)?;
    }
    f.write_str(")")
}

/// The normal form.
impl fmt::Display for Ast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, binding::LOGIC)
    }
}
