//! The tree made ready for evaluation: attributes and functions resolved, patterns and sets prepared, constant
//! parts replaced by their values.

use std::borrow::Cow;

use super::function::Function;
use super::lexer::Token;
use super::like::Pattern;
use super::parser::{Ast, Binary, Logic};
use super::{LIKE_GAP_MAX, ParseError, Value, evaluate, lexer};

/// A part of a compiled expression.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Constant(Value<'static>),
    Attribute(Attribute),
    Exists(Attribute),
    Not(Box<Node>),
    Negate(Box<Node>),
    Binary(Binary, Box<[Node; 2]>),
    Logic(Logic, Box<[Node]>),
    Like {
        operand: Box<Node>,
        pattern: Pattern,
        negated: bool,
    },
    In {
        operand: Box<Node>,
        set: Set,
        negated: bool,
    },
    Call(Function, Box<[Node]>),
    /// A call of a function that does not exist: the message of the error it is.
    Unknown(Box<str>),
}

/// Which attribute of an event is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Attribute {
    Id,
    Source,
    Type,
    Specversion,
    Other(Box<str>),
}

/// The right side of `IN`.
#[derive(Clone, Debug)]
pub(super) struct Set {
    pub(super) elements: Box<[Node]>,
    /// If all elements are constants: their texts, sorted, for a String on the left.
    pub(super) texts: Option<Box<[Box<str>]>>,
}

impl Attribute {
    pub(crate) fn new(name: &str) -> Self {
        match name {
            "id" => Attribute::Id,
            "source" => Attribute::Source,
            "type" => Attribute::Type,
            "specversion" => Attribute::Specversion,
            other => Attribute::Other(other.into()),
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Attribute::Id => "id",
            Attribute::Source => "source",
            Attribute::Type => "type",
            Attribute::Specversion => "specversion",
            Attribute::Other(name) => name,
        }
    }
}

/// Compiles a tree parsed from `text`. Also says where it first calls a function that does not exist.
pub(super) fn compile(ast: &Ast, text: &str) -> Result<(Node, Option<ParseError>), ParseError> {
    let mut compiler = Compiler { text, unknown: None };
    let root = compiler.node(ast)?;
    Ok((root, compiler.unknown))
}

struct Compiler<'t> {
    text: &'t str,
    unknown: Option<ParseError>,
}

impl Compiler<'_> {
    fn node(&mut self, ast: &Ast) -> Result<Node, ParseError> {
        let node = match ast {
            Ast::Boolean(value) => return Ok(Node::Constant(Value::Boolean(*value))),
            Ast::Integer(value) => return Ok(Node::Constant(Value::Integer(*value))),
            Ast::String(value) => {
                return Ok(Node::Constant(Value::String(Cow::Owned(value.clone().into_string()))));
            }
            Ast::Attribute(name) => return Ok(Node::Attribute(Attribute::new(name))),
            Ast::Exists(name) => return Ok(Node::Exists(Attribute::new(name))),
            Ast::Not(operand) => Node::Not(Box::new(self.node(operand)?)),
            Ast::Negate(operand) => Node::Negate(Box::new(self.node(operand)?)),
            Ast::Binary(operator, left, right) => {
                Node::Binary(*operator, Box::new([self.node(left)?, self.node(right)?]))
            }
            Ast::Logic(operator, operands) => Node::Logic(*operator, self.nodes(operands)?),
            Ast::Like { operand, pattern, negated, offset } => Node::Like {
                operand: Box::new(self.node(operand)?),
                pattern: self.pattern(pattern, *offset)?,
                negated: *negated,
            },
            Ast::In { operand, set, negated } => Node::In {
                operand: Box::new(self.node(operand)?),
                set: Set::new(self.nodes(set)?),
                negated: *negated,
            },
            Ast::Call { name, arguments, offset } => self.call(name, arguments, *offset)?,
        };
        Ok(fold(node))
    }

    fn nodes(&mut self, list: &[Ast]) -> Result<Box<[Node]>, ParseError> {
        list.iter().map(|ast| self.node(ast)).collect()
    }

    fn pattern(&self, pattern: &str, offset: usize) -> Result<Pattern, ParseError> {
        Pattern::new(pattern).map_err(|found| {
            let expected = format!("at most {LIKE_GAP_MAX} characters between two % of a pattern with _");
            ParseError::new(self.text, offset, expected, found.to_string())
        })
    }

    fn call(&mut self, name: &str, arguments: &[Ast], offset: usize) -> Result<Node, ParseError> {
        // Compiled even if the function does not exist: an argument may be an error of its own.
        let nodes = self.nodes(arguments)?;
        let unknown = match Function::resolve(name, arguments.len()) {
            Ok(function) => return Ok(Node::Call(function, nodes)),
            Err(unknown) => unknown,
        };
        let shown = Token { kind: lexer::Kind::Name, text: name, offset }.shown();
        let plural = if arguments.len() == 1 { "" } else { "s" };
        let found = format!("{shown} with {} argument{plural}", arguments.len());
        let message = format!("there is no function {found}");
        if self.unknown.is_none() {
            let mut error = ParseError::new(self.text, offset, unknown.expected, found);
            error.hint = unknown.hint;
            self.unknown = Some(error);
        }
        Ok(Node::Unknown(message.into()))
    }
}

impl Set {
    fn new(elements: Box<[Node]>) -> Self {
        let texts = elements.iter().map(|element| match element {
            Node::Constant(value) => Some(value.to_string().into_boxed_str()),
            _ => None,
        });
        let texts: Option<Box<[Box<str>]>> = texts.collect();
        let texts = texts.map(|mut texts| {
            texts.sort_unstable();
            texts
        });
        Self { elements, texts }
    }

    fn is_constant(&self) -> bool {
        self.texts.is_some()
    }
}

impl Node {
    fn is_constant(&self) -> bool {
        matches!(self, Node::Constant(_))
    }
}

/// The value of a part that consists of constants only. One with an error stays as it is: every evaluation
/// that reaches it reports the error.
fn fold(node: Node) -> Node {
    let constant = match &node {
        Node::Not(operand) | Node::Negate(operand) | Node::Like { operand, .. } => operand.is_constant(),
        Node::In { operand, set, .. } => operand.is_constant() && set.is_constant(),
        Node::Binary(_, operands) => operands.iter().all(Node::is_constant),
        Node::Logic(_, operands) | Node::Call(_, operands) => operands.iter().all(Node::is_constant),
        _ => false,
    };
    if !constant {
        return node;
    }
    let (value, errors) = evaluate::completely(&node, &evaluate::Nothing);
    match errors.is_empty() {
        true => Node::Constant(value.into_owned()),
        false => node,
    }
}
