//! YAML in, [`crate::model::Model`] out — or every error at once, with file, line, column and a hint.
