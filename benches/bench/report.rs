//! What was measured: said at once, kept for the end.

use serde_json::{Map, Value, json};

/// Cells under their names, in order.
type Row = Vec<(String, Value)>;

/// Tables of rows, in the order in which they came.
#[derive(Default)]
pub(crate) struct Report {
    tables: Vec<(String, Vec<Row>)>,
}

impl Report {
    /// Adds a row to a table and prints it.
    pub(crate) fn row(&mut self, table: &str, cells: &[(&str, Value)]) {
        let said: Vec<String> = cells.iter().map(|(name, value)| format!("{name} {}", text(value))).collect();
        println!("{table}: {}", said.join(" · "));
        let row: Row = cells.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        match self.tables.iter_mut().find(|(name, _)| name == table) {
            Some((_, rows)) => rows.push(row),
            None => self.tables.push((table.to_owned(), vec![row])),
        }
    }

    /// Every table as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut page = String::new();
        for (table, rows) in &self.tables {
            let mut columns: Vec<&String> = Vec::new();
            for (name, _) in rows.iter().flatten() {
                if !columns.contains(&name) {
                    columns.push(name);
                }
            }
            let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
            page.extend(["\n## ", table, "\n\n"]);
            page += &line(columns.iter().map(ToString::to_string).collect());
            page += &line(columns.iter().map(|_| "---".to_owned()).collect());
            for row in rows {
                let cell = |name: &String| row.iter().find(|(its, _)| its == name).map(|(_, value)| text(value));
                page += &line(columns.iter().map(|name| cell(name).unwrap_or_default()).collect());
            }
        }
        page
    }

    /// Every table as JSON.
    pub(crate) fn json(&self) -> Value {
        let object = |row: &Row| row.iter().cloned().collect::<Map<_, _>>();
        let rows = |rows: &Vec<Row>| json!(rows.iter().map(object).collect::<Vec<_>>());
        json!(self.tables.iter().map(|(name, all)| (name.clone(), rows(all))).collect::<Map<_, _>>())
    }
}

/// Three digits that count; large numbers in full.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(text).collect::<Vec<_>>().join(" "),
        Value::Null => "–".to_owned(),
        Value::Number(number) => match number.as_f64() {
            Some(n) if n.fract() == 0.0 || n.abs() >= 100.0 => format!("{n:.0}"),
            Some(n) if n.abs() >= 10.0 => format!("{n:.1}"),
            Some(n) if n.abs() >= 0.01 => format!("{n:.2}"),
            Some(n) => format!("{n:.4}"),
            None => number.to_string(),
        },
        other => other.to_string(),
    }
}
