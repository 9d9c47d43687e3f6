//! The schema coherd: the version of its functions, and who may call them.

use crate::types::finding::{Code, Finding};
use crate::types::table::quote_identifier;

/// The comment that this version's functions set on the schema.
pub const FUNCTIONS_COMMENT: &str = "Cache coherence: read your writes, manual invalidation, status (version 9)";

/// The subject of findings about the schema.
pub const FUNCTIONS_SUBJECT: &str = "schema coherd";

/// The statements with which the schema's owner lets a role invalidate manually.
pub fn operating(role: &str) -> [String; 2] {
    let role = quote_identifier(role);
    [
        format!("GRANT USAGE ON SCHEMA coherd TO {role};"),
        format!(
            "GRANT EXECUTE ON FUNCTION coherd.invalidate(text[]), coherd.touch(regclass, text, name), \
             coherd.flush(regclass), coherd.emit(json) TO {role};"
        ),
    ]
}

/// The finding that the group role does not exist.
pub fn no_operators() -> Finding {
    let message = "the role coherd_operator does not exist, so only the schema's owner and coherd's own role can \
                   invalidate manually. Run the first statement as a role with CREATEROLE, the others as the owner of \
                   the schema coherd";
    Finding::warning(Code::OPERATOR_MISSING, FUNCTIONS_SUBJECT, message)
        .remedy("CREATE ROLE coherd_operator NOLOGIN;")
        .remedies(operating("coherd_operator"))
}
