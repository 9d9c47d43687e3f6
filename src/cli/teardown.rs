//! `coherd teardown`: takes away what `coherd setup` made.

use anyhow::{Context as _, anyhow};
use tokio_postgres::Client;

use super::{Failure, parts, print};
use crate::config::Config;
use crate::database::Database;
use crate::source::catalog::{look, told};
use crate::source::sql::connect;
use crate::table::{quote_identifier, quote_literal};

/// `coherd teardown`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do it; without, only say what would be done
    #[arg(long)]
    yes: bool,
    /// Drop publication and functions as another role, their owner: a libpq URI or key=value text
    #[arg(long, value_name = "DSN")]
    dsn: Option<String>,
}

/// What there is to drop, each as SQL; the slot first, because it can refuse.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Drops the slot. Needs the right to replicate.
    pub slot: Option<String>,
    /// Drops the publication and the schema. Needs their owner.
    pub others: Vec<String>,
}

/// What there is to drop. Refuses while somebody streams from the slot.
pub fn plan(database: &Database) -> Result<Plan, String> {
    let mut plan = Plan::default();
    if let Some(slot) = &database.slot {
        let name = quote_identifier(&database.slot_name);
        if let Some(pid) = slot.active_pid {
            return Err(format!("the slot {name} is in use by process {pid} of the server; stop the daemon first"));
        }
        if slot.database.as_deref() != Some(database.name.as_str()) {
            return Err(format!("the slot {name} belongs to another database, so it is not ours to drop"));
        }
        let literal = quote_literal(&database.slot_name);
        plan.slot = Some(format!("SELECT pg_drop_replication_slot({});", literal.trim_start()));
    }
    if database.publication.is_some() {
        plan.others.push(format!("DROP PUBLICATION {};", quote_identifier(&database.publication_name)));
    }
    if database.functions.is_some() {
        plan.others.push("DROP SCHEMA coherd CASCADE;".to_owned());
    }
    Ok(plan)
}

/// Drops, or says what it would drop.
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
    let plan = plan(&database).map_err(|reason| anyhow!("nothing was dropped: {reason}"))?;
    if plan == Plan::default() {
        return print("nothing to do: there is no slot, no publication and no schema coherd\n");
    }
    let all = plan.slot.iter().chain(&plan.others);
    if !args.yes {
        print(&all.flat_map(|statement| [statement, "\n"]).collect::<String>())?;
        return Err(anyhow!("nothing was dropped: with --yes, the above will be").into());
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
