//! What is inside a column's text: elements of arrays, places in JSON, numbers.

pub mod array;
pub mod decimal;
pub mod json;
