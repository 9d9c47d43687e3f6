//! `coherd teardown`: drops what `coherd setup` made.

use anyhow::{Context as _, anyhow};
use tokio_postgres::Client;

use super::{Failure, parts, print};
use crate::config::Config;
use crate::postgres::catalog::{look, told};
use crate::postgres::client::sql::connect;
use crate::types::database::Database;
use crate::types::slot::SlotState;
use crate::types::table::{quote_identifier, quote_literal};

/// `coherd teardown`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Drop them; without --yes, only print the statements
    #[arg(long)]
    yes: bool,
    /// Drop the schema coherd even if other coherd instances of this database may use it
    #[arg(long)]
    schema: bool,
    /// Drop the publication and functions as their owner: a libpq URI or key=value string
    #[arg(long, value_name = "DSN")]
    dsn: Option<String>,
}

/// What to drop, as SQL. The slot comes first, because dropping it can be refused.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Drops the slot. Needs the REPLICATION attribute.
    pub slot: Option<String>,
    /// Drop the publication and the schema, each in one transaction. They need the owner's rights.
    pub others: Vec<String>,
    /// What stays, and why.
    pub kept: Vec<String>,
}

/// The comment on a schema that coherd made begins with this.
const SCHEMA_COMMENT: &str = "Cache coherence";

/// Plans what to drop. Refuses while the slot is in use, and keeps what coherd did not make. `contents` are the
/// statements that empty the schema; `with_schema` drops the schema even if other coherds may use it.
pub fn plan(database: &Database, contents: &[String], with_schema: bool) -> Result<Plan, String> {
    let mut plan = Plan::default();
    if let Some(slot) = &database.slot {
        let name = quote_identifier(&database.slot_name);
        if let SlotState::OfOthers(_) = slot.state(&database.name) {
            return Err(format!(
                "the slot {name} is physical, of another database, or not one that coherd makes, so it is not ours to drop"
            ));
        }
        if let Some(pid) = slot.active_pid {
            return Err(format!("the slot {name} is in use by process {pid} of the server; stop the daemon first"));
        }
        let literal = quote_literal(&database.slot_name);
        plan.slot = Some(format!("SELECT pg_catalog.pg_drop_replication_slot({});", literal.trim_start()));
    }
    let others: Vec<String> = database.other_slots.iter().map(|slot| quote_identifier(slot)).collect();
    if let Some(held) = &database.publication {
        let name = quote_identifier(&database.publication_name);
        if held.made_here {
            plan.others.push(format!("DROP PUBLICATION {name};"));
        } else {
            plan.kept.push(format!("publication {name}: coherd setup did not make it for this slot"));
        }
    }
    match database.functions.as_deref() {
        None => {}
        Some(comment) if !comment.starts_with(SCHEMA_COMMENT) => {
            plan.kept.push("schema coherd: coherd did not make it".to_owned());
        }
        Some(_) if !others.is_empty() && !with_schema => plan.kept.push(format!(
            "schema coherd: the coherds of other slots in this database may use it ({}); --schema drops it nevertheless",
            others.join(", ")
        )),
        // Without CASCADE, which would also drop objects that others have built on the schema.
        Some(_) => {
            let statements = contents.iter().map(String::as_str).chain(["DROP SCHEMA coherd;"]);
            plan.others.push(statements.collect::<Vec<_>>().join("\n"));
        }
    }
    Ok(plan)
}

/// Builds the statements that drop all views and functions of the schema.
const CONTENTS: &str = "
SELECT 'DROP VIEW ' || pg_catalog.string_agg(pg_catalog.format('coherd.%I', c.relname), ', ' ORDER BY c.relname) || ';'
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'coherd' AND c.relkind = 'v'
UNION ALL
SELECT 'DROP ROUTINE ' || pg_catalog.string_agg(pg_catalog.format('coherd.%I(%s)', p.proname,
        pg_catalog.pg_get_function_identity_arguments(p.oid)), ', ' ORDER BY p.proname, p.oid) || ';'
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'coherd'";

/// Drops everything, or prints what it would drop.
pub async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    let own = parts::dsn("source.dsn", &config.source.dsn)?.named("coherd teardown");
    let client = connect(&own).await.context("connecting to the database")?;
    let owner = match args.dsn.as_deref() {
        Some(dsn) => Some(
            connect(&parts::dsn("--dsn", &dsn.into())?.named("coherd teardown"))
                .await
                .context("connecting to the database with --dsn")?,
        ),
        None => None,
    };
    let (slot, publication) = (&config.source.slot, &config.source.publication);
    let database = look(&client, slot, publication, &[]).await.map_err(anyhow::Error::new)?;
    let contents =
        client.query(CONTENTS, &[]).await.map_err(|error| anyhow!("cannot read schema coherd: {}", told(&error)))?;
    let contents: Vec<String> =
        contents.iter().filter_map(|row| row.try_get::<_, Option<String>>(0).ok().flatten()).collect();
    let plan = plan(&database, &contents, args.schema).map_err(|reason| anyhow!("nothing was dropped: {reason}"))?;
    print(&plan.kept.iter().flat_map(|kept| ["kept: ", kept, "\n"]).collect::<String>())?;
    if plan.slot.is_none() && plan.others.is_empty() {
        return print("nothing to do: no slot, no publication and no schema coherd is there to drop\n");
    }
    let all = plan.slot.iter().chain(&plan.others);
    if !args.yes {
        print(&all.flat_map(|statement| [statement, "\n"]).collect::<String>())?;
        return Err(anyhow!("nothing was dropped; to drop the above, add --yes").into());
    }
    if let Some(statement) = &plan.slot {
        drop_one(&client, statement).await?;
    }
    for statement in &plan.others {
        drop_one(owner.as_ref().unwrap_or(&client), statement).await?;
    }
    Ok(())
}

async fn drop_one(client: &Client, statement: &str) -> Result<(), Failure> {
    match client.batch_execute(statement).await {
        Ok(()) => print(&format!("{statement}\n")),
        Err(error) => Err(anyhow!("{statement} was refused: {}; name its owner with --dsn", told(&error)).into()),
    }
}
