//! The service and the package, and how the package installs the service. Tests that need neither root nor a package
//! always run; the rest run in `make package-test`.

pub mod contents;
pub mod machine;
pub mod manifest;
pub mod newcomer;
pub mod scripts;
pub mod service;
pub mod unit;
