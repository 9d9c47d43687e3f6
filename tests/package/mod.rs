//! The service, the package and the way from one to the other. What needs no root and no package is always run; the rest
//! is `make package-test`.

pub mod contents;
pub mod machine;
pub mod manifest;
pub mod newcomer;
pub mod scripts;
pub mod service;
pub mod unit;
