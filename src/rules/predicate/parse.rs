//! Parses `where`. sqlparser reads the SQL; what is outside the documented subset is refused, with its position.

use sqlparser::ast::{BinaryOperator, Expr, Ident, Spanned, UnaryOperator, Value as SqlValue};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

use super::{Comparison, Literal, Predicate, Value};
use crate::rules::value::decimal;
use crate::rules::value::json::Step;

/// The deepest nesting of parentheses and NOT.
const DEPTH_MAX: usize = 20;
/// The longest text in bytes. A chain of ANDs nests too, once for each.
const BYTES_MAX: usize = 4000;

/// A condition that cannot be read: where, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct PredicateError {
    reason: String,
}

type Parsed<T> = Result<T, PredicateError>;

fn refused<T>(reason: String) -> Parsed<T> {
    Err(PredicateError { reason })
}

/// Parses a condition. Names are folded to lower case unless they are quoted.
pub fn parse(text: &str) -> Parsed<Predicate<String>> {
    if text.len() > BYTES_MAX {
        return refused(format!("it has {} bytes; a condition has at most {BYTES_MAX}", text.len()));
    }
    let dialect = PostgreSqlDialect {};
    let parser = Parser::new(&dialect).with_recursion_limit(DEPTH_MAX).try_with_sql(text);
    let parsed = parser.and_then(|mut parser| {
        let condition = parser.parse_expr()?;
        parser.expect_token(&Token::EOF)?;
        Ok(condition)
    });
    match parsed {
        Ok(condition) => predicate(&condition),
        Err(error) => refused(format!("{text:?} is no SQL condition: {}", said(&error.to_string()))),
    }
}

/// The parser's message, without its prefix.
fn said(message: &str) -> &str {
    message.strip_prefix("sql parser error: ").unwrap_or(message)
}

fn predicate(condition: &Expr) -> Parsed<Predicate<String>> {
    Ok(match condition {
        Expr::Nested(inner) => predicate(inner)?,
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            Predicate::And(vec![predicate(left)?, predicate(right)?])
        }
        Expr::BinaryOp { left, op: BinaryOperator::Or, right } => {
            Predicate::Or(vec![predicate(left)?, predicate(right)?])
        }
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => Predicate::Not(Box::new(predicate(expr)?)),
        Expr::BinaryOp { left, op, right } if comparison(op).is_some() => compare(left, op, right)?,
        Expr::IsNull(of) => Predicate::IsNull(value(of)?),
        Expr::IsNotNull(of) => negated(true, Predicate::IsNull(value(of)?)),
        Expr::IsTrue(of) => known(Predicate::Compare(value(of)?, Comparison::Equal, Literal::Bool(true)), of)?,
        Expr::IsNotTrue(of) => {
            negated(true, known(Predicate::Compare(value(of)?, Comparison::Equal, Literal::Bool(true)), of)?)
        }
        Expr::IsFalse(of) => known(Predicate::Compare(value(of)?, Comparison::Equal, Literal::Bool(false)), of)?,
        Expr::IsNotFalse(of) => {
            negated(true, known(Predicate::Compare(value(of)?, Comparison::Equal, Literal::Bool(false)), of)?)
        }
        Expr::InList { expr, list, negated: is_negated } => {
            let equal =
                |literal: &Expr| Ok(Predicate::Compare(value(expr)?, Comparison::Equal, self::literal(literal)?));
            negated(*is_negated, Predicate::Or(list.iter().map(equal).collect::<Parsed<_>>()?))
        }
        Expr::Like { negated: is_negated, any: false, expr, pattern, escape_char: None } => {
            negated(*is_negated, Predicate::Prefix(value(expr)?, prefix(pattern)?))
        }
        Expr::Identifier(_) => Predicate::Compare(value(condition)?, Comparison::Equal, Literal::Bool(true)),
        other => return refused(unsupported(other)),
    })
}

fn negated(is_negated: bool, predicate: Predicate<String>) -> Predicate<String> {
    if is_negated { Predicate::Not(Box::new(predicate)) } else { predicate }
}

/// `IS TRUE` is FALSE for NULL, where `= TRUE` is NULL.
fn known(predicate: Predicate<String>, of: &Expr) -> Parsed<Predicate<String>> {
    Ok(Predicate::And(vec![negated(true, Predicate::IsNull(value(of)?)), predicate]))
}

fn compare(left: &Expr, op: &BinaryOperator, right: &Expr) -> Parsed<Predicate<String>> {
    let Some((comparison, is_negated)) = comparison(op) else { return refused(unsupported(left)) };
    let (of, literal) = (value(left)?, literal(right)?);
    if comparison != Comparison::Equal && !matches!(literal, Literal::Number(_)) {
        return refused(format!(
            "{left} {op} {right}: only numbers are compared with {op}; the order of texts depends on their collation"
        ));
    }
    Ok(negated(is_negated, Predicate::Compare(of, comparison, literal)))
}

/// The comparison, and whether it is negated.
fn comparison(op: &BinaryOperator) -> Option<(Comparison, bool)> {
    Some(match op {
        BinaryOperator::Eq => (Comparison::Equal, false),
        BinaryOperator::NotEq => (Comparison::Equal, true),
        BinaryOperator::Lt => (Comparison::Less, false),
        BinaryOperator::LtEq => (Comparison::LessOrEqual, false),
        BinaryOperator::Gt => (Comparison::Greater, false),
        BinaryOperator::GtEq => (Comparison::GreaterOrEqual, false),
        _ => return None,
    })
}

/// A column, or a path into its JSON that ends with `->>`.
fn value(of: &Expr) -> Parsed<Value<String>> {
    match of {
        Expr::Nested(inner) => value(inner),
        Expr::Identifier(name) => Ok(Value { column: folded(name), path: Vec::new() }),
        Expr::BinaryOp { left, op: BinaryOperator::LongArrow, right } => {
            let mut value = inside(left)?;
            value.path.push(step(right)?);
            Ok(value)
        }
        Expr::BinaryOp { op: BinaryOperator::Arrow, .. } => {
            refused(format!("{of} is JSON, not text; the last arrow is ->>"))
        }
        Expr::Value(_) => refused(format!("{of}: a column comes first, as in status = 'published'")),
        other => refused(unsupported(other)),
    }
}

/// JSON: a column, or a path of `->`.
fn inside(of: &Expr) -> Parsed<Value<String>> {
    match of {
        Expr::BinaryOp { left, op: BinaryOperator::Arrow, right } => {
            let mut value = inside(left)?;
            value.path.push(step(right)?);
            Ok(value)
        }
        Expr::Identifier(name) => Ok(Value { column: folded(name), path: Vec::new() }),
        other => refused(unsupported(other)),
    }
}

fn step(of: &Expr) -> Parsed<Step> {
    match literal(of)? {
        Literal::Text(name) => Ok(Step::Name(name)),
        Literal::Number(number) => match number.parse() {
            Ok(index) => Ok(Step::Index(index)),
            Err(_) => refused(format!("{of} is no place in a JSON array")),
        },
        Literal::Bool(_) => refused(format!("{of} is no name in JSON; write 'name'")),
    }
}

fn folded(name: &Ident) -> String {
    // In a UTF-8 database, Postgres folds only ASCII letters.
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_ascii_lowercase() }
}

fn literal(of: &Expr) -> Parsed<Literal> {
    let number = |text: &str, sign: &str| {
        let text = format!("{sign}{text}");
        if decimal::is_decimal(text.as_bytes()) {
            Ok(Literal::Number(text))
        } else {
            refused(format!("{text} is no decimal number; write its digits"))
        }
    };
    match of {
        Expr::Nested(inner) => literal(inner),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match &**expr {
            Expr::Value(value) => match &value.value {
                SqlValue::Number(text, _) => number(text, "-"),
                _ => refused(unsupported(of)),
            },
            _ => refused(unsupported(of)),
        },
        Expr::Value(value) => match &value.value {
            SqlValue::Number(text, _) => number(text, ""),
            SqlValue::SingleQuotedString(text) => Ok(Literal::Text(text.clone())),
            SqlValue::Boolean(truth) => Ok(Literal::Bool(*truth)),
            SqlValue::Null => refused("nothing equals NULL; write IS NULL or IS NOT NULL".to_owned()),
            _ => refused(unsupported(of)),
        },
        Expr::Identifier(name) => refused(format!(
            "{name} is a column; a value is compared with a number, TRUE, FALSE or a text in single quotes"
        )),
        other => refused(unsupported(other)),
    }
}

/// `'text%'`, with no other `%`, no `_` and no backslash.
fn prefix(pattern: &Expr) -> Parsed<String> {
    let wrong = || format!("LIKE {pattern}: the pattern is a text and one % at its end, as in LIKE 'draft-%'");
    let Literal::Text(text) = literal(pattern)? else { return refused(wrong()) };
    match text.strip_suffix('%') {
        Some(prefix) if !prefix.contains(['%', '_', '\\']) => Ok(prefix.to_owned()),
        _ => refused(wrong()),
    }
}

fn unsupported(of: &Expr) -> String {
    let at = of.span().start;
    let at = if at.column > 0 { format!(" at column {}", at.column) } else { String::new() };
    format!(
        "{of}{at} is not part of what a condition can say: comparisons of a column, or of JSON by ->>, with literals, IN, \
         LIKE 'prefix%', IS NULL, AND, OR, NOT and parentheses"
    )
}
