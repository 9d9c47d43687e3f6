//! How to change a server's setting. It depends on who runs the server: managed services refuse ALTER SYSTEM.

use crate::types::server::Hosting;
use crate::types::table::quote_literal;

/// When a changed setting takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// After `pg_reload_conf()`.
    Reload,
    /// After a restart.
    Restart,
}

/// The statements that change the setting, or what to do instead.
pub fn set(hosting: Hosting, setting: &str, value: &str, takes: Takes) -> Vec<String> {
    let reboot = |text: &'static str| if takes == Takes::Restart { text } else { "" };
    let elsewhere = match hosting {
        Hosting::Own => {
            let alter = format!("ALTER SYSTEM SET {setting} = {};", literal(value));
            let then = match takes {
                Takes::Reload => "SELECT pg_catalog.pg_reload_conf();",
                Takes::Restart => "-- then restart the server",
            };
            return vec![alter, then.to_owned()];
        }
        Hosting::AmazonRds => {
            let (setting, value) =
                if setting == "wal_level" { ("rds.logical_replication", "1") } else { (setting, value) };
            let then = reboot(", then reboot the instance");
            format!("-- Amazon RDS: set {setting} = {value} in the instance's parameter group{then}")
        }
        Hosting::CloudSql => {
            let (setting, value) =
                if setting == "wal_level" { ("cloudsql.logical_decoding", "on") } else { (setting, value) };
            let then = reboot("; the instance restarts");
            format!("-- Cloud SQL: set the instance's flag {setting} = {value}{then}")
        }
        Hosting::Azure => {
            let then = reboot(", then restart the server");
            format!("-- Azure: set the server parameter {setting} = {value}{then}")
        }
    };
    vec![elsewhere]
}

fn literal(value: &str) -> String {
    let word = value.starts_with(|c: char| c.is_ascii_lowercase()) && value.chars().all(|c| c.is_ascii_lowercase());
    let plain = word || value.parse::<u32>().is_ok();
    if plain { value.to_owned() } else { quote_literal(value).trim_start().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_has_its_own_way() {
        let all = [Hosting::Own, Hosting::AmazonRds, Hosting::CloudSql, Hosting::Azure];
        let restart = all.map(|hosting| set(hosting, "wal_level", "logical", Takes::Restart).join("\n"));
        insta::assert_snapshot!(restart.join("\n"), @r#"
        ALTER SYSTEM SET wal_level = logical;
        -- then restart the server
        -- Amazon RDS: set rds.logical_replication = 1 in the instance's parameter group, then reboot the instance
        -- Cloud SQL: set the instance's flag cloudsql.logical_decoding = on; the instance restarts
        -- Azure: set the server parameter wal_level = logical, then restart the server
        "#);
        let reload = all.map(|hosting| set(hosting, "wal_sender_timeout", "60s", Takes::Reload).join("\n"));
        insta::assert_snapshot!(reload.join("\n"), @r#"
        ALTER SYSTEM SET wal_sender_timeout = '60s';
        SELECT pg_catalog.pg_reload_conf();
        -- Amazon RDS: set wal_sender_timeout = 60s in the instance's parameter group
        -- Cloud SQL: set the instance's flag wal_sender_timeout = 60s
        -- Azure: set the server parameter wal_sender_timeout = 60s
        "#);
    }
}
