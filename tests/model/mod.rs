//! Why coherd waits until a commit is visible, and strikes a second time.

mod check;
mod daemon;
mod reader;
mod setup;
mod story;
mod system;
mod table;
mod world;
