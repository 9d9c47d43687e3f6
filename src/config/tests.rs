//! The texts a user sees when the file is wrong.
