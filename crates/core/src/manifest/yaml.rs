//! YAML documents as trees, by the rules of YAML 1.1 where they differ.
//!
//! Invariant: no more values are built than the limits allow, and an alias is paid for each time it is used.
//! Upstream: `sigs.k8s.io/yaml` (`YAMLToJSON`), `goyaml.v2/resolve.go`.

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::{Limits, Problem};
use crate::decode::node::{Kind, Node};

/// The roots of all documents of `text`; an empty document is null.
pub(super) fn documents(text: &str, limits: &Limits) -> Result<Vec<Node>, Problem> {
    let options = granit_parser::options! {
        emit_comments: false,
        block_scalar_eof_without_line_feed: true,
    };
    let mut builder =
        Builder { limits, values: 0, alias_bytes: 0, open: Vec::new(), anchors: HashMap::new(), done: Vec::new() };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|why| Problem::at(why.marker().line(), why.to_string()))?;
        builder.event(event, &span)?;
    }
    Ok(builder.done)
}

struct Builder<'a> {
    limits: &'a Limits,
    values: usize,
    alias_bytes: usize,
    /// The lists and maps around the next value, outermost first.
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    done: Vec<Node>,
}

struct Open {
    node: OpenNode,
    line: usize,
    anchor: usize,
    size: Size,
}

enum OpenNode {
    List(Vec<Node>),
    /// Members so far, those merged in by `<<`, and the key that waits for its value.
    Map(Vec<(String, Node)>, Vec<(String, Node)>, Option<Key>),
}

enum Key {
    Name(String),
    Merge,
}

#[derive(Clone)]
struct Anchored {
    node: Node,
    size: Size,
}

/// What repeating a value costs.
#[derive(Clone, Copy, Default)]
struct Size {
    values: usize,
    bytes: usize,
    depth: usize,
}

impl Size {
    fn add(&mut self, child: Size) {
        self.values += child.values;
        self.bytes += child.bytes;
        self.depth = self.depth.max(child.depth + 1);
    }
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), Problem> {
        let line = span.start.line();
        match event {
            Event::DocumentStart(..) => self.anchors.clear(),
            Event::Scalar(text, style, anchor, tag) => {
                let kind = resolve(&text, style, tag.as_deref()).map_err(|why| Problem::at(line, why))?;
                let bytes = if let Kind::Text(text) = &kind { text.len() } else { 0 };
                let size = Size { values: 1, bytes, depth: 0 };
                let merge = text == "<<" && style == ScalarStyle::Plain;
                self.value(Node { kind, line }, size, anchor, merge)?;
            }
            Event::SequenceStart(_, anchor, _) => self.start(OpenNode::List(Vec::new()), line, anchor)?,
            Event::MappingStart(_, anchor, _) => {
                self.start(OpenNode::Map(Vec::new(), Vec::new(), None), line, anchor)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end()?,
            Event::Alias(id) => self.alias(id, line)?,
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, values: usize, line: usize) -> Result<(), Problem> {
        self.values += values;
        if self.values > self.limits.values {
            let message = format!("the manifest has more than {} values", self.limits.values);
            return Err(Problem::at(line, message));
        }
        Ok(())
    }

    fn start(&mut self, node: OpenNode, line: usize, anchor: usize) -> Result<(), Problem> {
        self.count(1, line)?;
        self.check_depth(0, line)?;
        if let Some(Open { node: OpenNode::Map(_, _, None), .. }) = self.open.last() {
            return Err(Problem::at(line, "a key must be a text, a number or a boolean"));
        }
        self.open.push(Open { node, line, anchor, size: Size { values: 1, ..Size::default() } });
        Ok(())
    }

    fn check_depth(&self, below: usize, line: usize) -> Result<(), Problem> {
        if self.open.len() + below >= self.limits.depth {
            let message = format!("values are nested more than {} deep", self.limits.depth);
            return Err(Problem::at(line, message));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Problem> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let kind = match open.node {
            OpenNode::List(items) => Kind::List(items),
            OpenNode::Map(mut members, merged, _) => {
                if !merged.is_empty() {
                    // A map's own members come first; of merged ones, the first that has the name.
                    let mut names: HashSet<String> = members.iter().map(|(name, _)| name.clone()).collect();
                    members.extend(merged.into_iter().filter(|(name, _)| names.insert(name.clone())));
                }
                Kind::Map(members)
            }
        };
        let node = Node { kind, line: open.line };
        self.place(node, open.size, open.anchor, false)
    }

    fn value(&mut self, node: Node, size: Size, anchor: usize, merge: bool) -> Result<(), Problem> {
        self.count(size.values, node.line)?;
        self.place(node, size, anchor, merge)
    }

    /// Puts a finished value where it belongs.
    fn place(&mut self, node: Node, size: Size, anchor: usize, merge: bool) -> Result<(), Problem> {
        if anchor != 0 {
            // Kept for aliases, so paid for as one: a chain of anchored parents would cost the square.
            self.pay(size, node.line)?;
            let anchored = Anchored { node: node.clone(), size };
            self.anchors.insert(anchor, anchored);
        }
        let Some(parent) = self.open.last_mut() else {
            self.done.push(node);
            return Ok(());
        };
        parent.size.add(size);
        match &mut parent.node {
            OpenNode::List(items) => items.push(node),
            OpenNode::Map(_, _, key @ None) => {
                *key = Some(if merge { Key::Merge } else { Key::Name(key_name(&node)?) });
            }
            OpenNode::Map(members, merged, key) => match key.take() {
                Some(Key::Name(name)) => members.push((name, node)),
                _ => merge_into(merged, node)?,
            },
        }
        Ok(())
    }

    fn pay(&mut self, size: Size, line: usize) -> Result<(), Problem> {
        self.count(size.values, line)?;
        self.alias_bytes += size.bytes;
        if self.alias_bytes > self.limits.alias_bytes {
            let message = format!("aliases repeat more than {} bytes", self.limits.alias_bytes);
            return Err(Problem::at(line, message));
        }
        Ok(())
    }

    fn alias(&mut self, id: usize, line: usize) -> Result<(), Problem> {
        let Some(size) = self.anchors.get(&id).map(|anchored| anchored.size) else {
            return Err(Problem::at(line, "an anchor can't contain itself"));
        };
        self.pay(size, line)?;
        self.check_depth(size.depth, line)?;
        let mut node = self.anchors[&id].node.clone();
        node.line = line;
        self.place(node, size, 0, false)
    }
}

/// The value of `<<`: a map, or a list of maps of which the first wins.
fn merge_into(merged: &mut Vec<(String, Node)>, value: Node) -> Result<(), Problem> {
    match value.kind {
        Kind::Map(members) => {
            merged.extend(members);
            Ok(())
        }
        Kind::List(items) => items.into_iter().try_for_each(|item| merge_into(merged, item)),
        _ => Err(Problem::at(value.line, "map merge requires map or sequence of maps as the value")),
    }
}

fn key_name(key: &Node) -> Result<String, Problem> {
    Ok(match &key.kind {
        Kind::Text(text) => text.clone(),
        Kind::Bool(value) => value.to_string(),
        other => match other.number() {
            Some(number) => number,
            None => return Err(Problem::at(key.line, "a key must be a text, a number or a boolean")),
        },
    })
}

/// What a scalar stands for.
pub(super) fn resolve(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Kind, String> {
    let tag = tag.and_then(Tag::core_suffix);
    if style != ScalarStyle::Plain && tag.is_none() || tag == Some("str") {
        return Ok(Kind::Text(text.to_owned()));
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Kind::Null),
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Ok(Kind::Bool(true));
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Ok(Kind::Bool(false));
        }
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf" | "-.INF" | ".nan" | ".NaN"
        | ".NAN" => return Err(format!("{text} has no place in JSON")),
        _ => {}
    }
    let numeric = matches!(text.as_bytes()[0], b'0'..=b'9' | b'+' | b'-' | b'.');
    Ok(numeric.then(|| number(text)).flatten().unwrap_or_else(|| Kind::Text(text.to_owned())))
}

/// A number as Go reads it: any base by its prefix, octal by a leading zero, digits grouped by `_`.
fn number(text: &str) -> Option<Kind> {
    let plain = text.replace('_', "");
    let (negative, digits) = match plain.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    if let Some(magnitude) = integer(digits) {
        return if negative {
            i64::try_from(-i128::from(magnitude)).ok().map(Kind::Int)
        } else {
            Some(i64::try_from(magnitude).map_or(Kind::Large(magnitude), Kind::Int))
        };
    }
    let mantissa = digits.split(['e', 'E']).next().unwrap_or_default();
    let is_float = digits.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b))
        && mantissa.bytes().any(|b| b.is_ascii_digit())
        && mantissa.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let value: f64 = plain.parse().ok().filter(|_| is_float)?;
    value.is_finite().then_some(Kind::Float(value))
}

fn integer(digits: &str) -> Option<u64> {
    let radix = |digits: &str, radix| {
        let plain = digits.bytes().all(|b| b.is_ascii_alphanumeric());
        u64::from_str_radix(digits, radix).ok().filter(|_| plain)
    };
    let lower = digits.to_ascii_lowercase();
    if let Some(digits) = lower.strip_prefix("0x") {
        radix(digits, 16)
    } else if let Some(digits) = lower.strip_prefix("0b") {
        radix(digits, 2)
    } else if let Some(digits) = lower.strip_prefix("0o") {
        radix(digits, 8)
    } else if lower.len() > 1 && lower.starts_with('0') {
        radix(&lower, 8)
    } else {
        radix(&lower, 10)
    }
}
