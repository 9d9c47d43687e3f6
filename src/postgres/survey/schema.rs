//! The schema coherd: which version its functions are of, and who may call them.

use crate::types::finding::{Code, Finding};
use crate::types::table::quote_identifier;

/// The comment on the schema that this version's functions leave behind.
pub const FUNCTIONS_COMMENT: &str = "Cache coherence: read your writes, manual invalidation, status (version 9)";

/// What findings about it are about.
pub const FUNCTIONS_SUBJECT: &str = "schema coherd";

/// What the schema's owner grants to a role that is to invalidate manually.
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

/// What is found where the group role is not there.
pub fn no_operators() -> Finding {
    let message = "the role coherd_operator does not exist, so only the schema's owner and coherd's own role can \
                   invalidate manually. Run the first statement as a role with CREATEROLE, the others as the owner of \
                   the schema coherd";
    Finding::warning(Code::OPERATOR_MISSING, FUNCTIONS_SUBJECT, message)
        .remedy("CREATE ROLE coherd_operator NOLOGIN;")
        .remedies(operating("coherd_operator"))
}
