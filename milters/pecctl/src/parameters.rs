//! `pecctl parameters`: the table of the pec_ parameters, or the line that makes Postfix know those that are
//! set.

use std::path::Path;

use pec_host::parameters::{Parameter, markdown, names_set, table};
use serde_json::json;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print the table of docs/configuration.md.
    #[arg(long)]
    markdown: bool,

    /// Print the value for milter_macro_defaults that names the parameters that are set in main.cf, so that
    /// postconf does not call them unused.
    #[arg(long, conflicts_with = "markdown")]
    named: bool,

    /// One JSON object a line.
    #[arg(long, conflicts_with_all = ["markdown", "named"])]
    json: bool,
}

pub(crate) fn run(config_directory: &Path, arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.markdown {
        print!("{}", markdown());
    } else if arguments.named {
        let named: String = names_set(config_directory)?.iter().map(|name| format!("${{{name}?}}")).collect();
        println!("{named}");
    } else if arguments.json {
        table().iter().for_each(|parameter| println!("{}", json_of(parameter)));
    } else {
        for parameter in table() {
            println!("{}\n    {}\n", parameter.name, parameter.meaning);
        }
    }
    Ok(())
}

fn json_of(parameter: &Parameter) -> serde_json::Value {
    json!({
        "name": parameter.name,
        "allowed": parameter.allowed,
        "required": parameter.required,
        "default": parameter.default,
        "meaning": parameter.meaning,
    })
}
