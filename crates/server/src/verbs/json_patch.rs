//! A JSON patch, one operation after the other, within bounds of time, memory and depth.
//!
//! Few bytes can ask for much: to copy everything 10,000 times, to shift a long list 10,000 times, to copy a place into
//! itself, which doubles the depth, until what calls itself to take the document apart runs out of stack.
//!
//! Invariant: the document never is deeper than [`DEEPEST`], and the work is at most [`Bounds::work`].
//! Left out: reading the patch; whether the document is an object afterwards.

use json_patch::PatchOperation;
use json_patch::jsonptr::Pointer;
use serde_json::Value;

use crate::body;
use crate::status::{Error, Result};

/// How deep values may be within values in between. What is stored may be [`STORED`] deep.
const DEEPEST: usize = 512;
/// How deep a value can be that was read from JSON.
const STORED: usize = 128;
/// How many items of a list are shifted at the cost of visiting one value.
const SHIFTED: usize = 8;

/// What a patch may still ask for.
struct Bounds {
    /// Values to visit.
    work: usize,
    /// Bytes to copy.
    copied: usize,
    /// How deep the document is at most.
    depth: usize,
}

/// What a value consists of.
#[derive(Clone, Copy, Default)]
struct Size {
    values: usize,
    bytes: usize,
    depth: usize,
}

/// Applies `operations` to `document`. It is spoiled if that fails.
pub(super) fn apply(document: &mut Value, operations: &[PatchOperation]) -> Result<()> {
    let mut bounds = Bounds { work: 5_000_000, copied: body::LIMIT, depth: STORED };
    for operation in operations {
        bounds.allow(document, operation)?;
        json_patch::patch(document, std::slice::from_ref(operation)).map_err(|_| Error::UnprocessablePatch)?;
    }
    Ok(())
}

impl Bounds {
    fn allow(&mut self, document: &Value, operation: &PatchOperation) -> Result<()> {
        match operation {
            PatchOperation::Add(add) => {
                self.shift(document, &add.path)?;
                self.put(&add.path, STORED)
            }
            PatchOperation::Replace(replace) => self.put(&replace.path, STORED),
            PatchOperation::Remove(remove) => self.shift(document, &remove.path),
            PatchOperation::Move(to) => {
                self.shift(document, &to.from)?;
                self.shift(document, &to.path)?;
                let moved = self.visit(document, &to.from)?;
                self.put(&to.path, moved.depth)
            }
            PatchOperation::Copy(copy) => {
                self.shift(document, &copy.path)?;
                let copied = self.visit(document, &copy.from)?;
                self.copied = self.copied.checked_sub(copied.bytes).ok_or_else(too_much)?;
                self.put(&copy.path, copied.depth)
            }
            PatchOperation::Test(_) => Ok(()),
        }
    }

    fn spend(&mut self, work: usize) -> Result<()> {
        self.work = self.work.checked_sub(work).ok_or_else(too_much)?;
        Ok(())
    }

    /// What it costs to put something into a list, or to take it out.
    fn shift(&mut self, document: &Value, path: &Pointer) -> Result<()> {
        let list = path.parent().and_then(|parent| parent.resolve(document).ok()).and_then(Value::as_array);
        self.spend(list.map_or(0, |list| list.len() / SHIFTED))
    }

    fn visit(&mut self, document: &Value, path: &Pointer) -> Result<Size> {
        // What is not there is refused where the operation is carried out.
        let size = path.resolve(document).map(size).unwrap_or_default();
        self.spend(size.values)?;
        Ok(size)
    }

    /// A value of this depth comes to a path.
    fn put(&mut self, path: &Pointer, depth: usize) -> Result<()> {
        self.depth = self.depth.max(path.tokens().count() + depth);
        if self.depth > DEEPEST { Err(Error::UnprocessablePatch) } else { Ok(()) }
    }
}

fn too_much() -> Error {
    Error::TooLarge("a JSON patch may not ask for that much".into())
}

fn size(value: &Value) -> Size {
    let mut whole = Size { values: 1, bytes: 8, depth: 0 };
    let mut add = |part: &Value| {
        let part = size(part);
        whole.values += part.values;
        whole.bytes += part.bytes;
        whole.depth = whole.depth.max(part.depth + 1);
    };
    match value {
        Value::Array(items) => items.iter().for_each(add),
        Value::Object(members) => {
            members.values().for_each(&mut add);
            whole.bytes += members.keys().map(String::len).sum::<usize>();
        }
        Value::String(text) => whole.bytes += text.len(),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    whole
}
