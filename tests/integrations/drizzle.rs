//! Drizzle and drizzle-kit.

use std::fs::{create_dir_all, read_to_string, write};
use std::path::Path;
use std::process::Command;

use super::{MEMBER, PAGE, World, copy, models, output, packages, said};
use crate::packages::npm;

fn config(schema: &str, filter: &str) -> String {
    format!(
        "import {{ defineConfig }} from \"drizzle-kit\";\n\nexport default defineConfig({{\n  dialect: \"postgresql\",\n  \
         schema: \"{schema}\",\n  out: \"drizzle\",\n  schemaFilter: [{filter}],\n  \
         dbCredentials: {{ url: process.env.DATABASE_URL ?? \"\" }},\n}});\n"
    )
}

fn tool(world: &World, folder: &Path, name: &str, arguments: &[&str]) -> Command {
    let mut command = world.command(folder, folder.join("node_modules/.bin").join(name));
    command.args(arguments);
    command
}

/// Checks the types of a program strictly, and runs it.
async fn compiled_and_run(world: &World, folder: &Path, program: &str) -> String {
    let types = [
        "--noEmit",
        "--strict",
        "--skipLibCheck",
        "--target",
        "es2023",
        "--module",
        "esnext",
        "--moduleResolution",
        "bundler",
        program,
    ];
    output("tsc", tool(world, folder, "tsc", &types)).await;
    let bundle =
        ["--bundle", "--platform=node", "--format=esm", "--packages=external", "--outfile=run.mjs", program];
    output("esbuild", tool(world, folder, "esbuild", &bundle)).await;
    let mut run = world.command(folder, "node");
    run.arg("run.mjs");
    output("the program", run).await
}

/// A program that reads all rows of these tables.
fn reads(module: &str, tables: impl Iterator<Item = String>) -> String {
    let each = tables
        .map(|table| {
            format!("console.log(\"{table}\", (await database.select().from(models.{table})).length);\n")
        })
        .collect::<Vec<_>>()
        .concat();
    format!(
        "import {{ drizzle }} from \"drizzle-orm/node-postgres\";\nimport * as models from \"{module}\";\n\n\
         const database = drizzle(process.env.DATABASE_URL ?? \"\");\n{each}await database.$client.end();\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ready_models_for_drizzle_compile_and_read_rows_and_no_migration_makes_their_tables() {
    let folder = npm(&packages("drizzle"));
    let world = World::new().await;
    copy("drizzle/clerk.ts", folder.path().join("drizzle/clerk.ts"));
    PAGE.write_block(folder.path(), "drizzle/query.ts");
    let said = compiled_and_run(&world, folder.path(), "drizzle/query.ts").await;
    assert_eq!(said, format!("{MEMBER}\n"));
    let tables = models().into_iter().map(|model| models::camel(&format!("clerk_{}", model.table)));
    write(folder.path().join("all.ts"), reads("./drizzle/clerk", tables)).expect("a written file");
    let said = compiled_and_run(&world, folder.path(), "all.ts").await;
    for line in ["clerkUsers 1\n", "clerkOrganizationMemberships 2\n", "clerkChanges 4\n"] {
        assert!(said.contains(line), "{line}: {said}");
    }

    let mine = "import { pgTable, serial, text } from \"drizzle-orm/pg-core\";\nimport { clerkUsers } from \"./drizzle/clerk\";\n\n\
                export const projects = pgTable(\"projects\", { id: serial().primaryKey(), \
                ownerId: text(\"owner_id\").references(() => clerkUsers.id) });\n";
    write(folder.path().join("mine.ts"), mine).expect("a written file");
    let path = folder.path().join("drizzle.config.ts");
    write(path, config("./mine.ts", "\"public\"").replace("\"drizzle\"", "\"made\""))
        .expect("a written file");
    let tables = world.tables().await;
    output("drizzle-kit push", tool(&world, folder.path(), "drizzle-kit", &["push", "--force"])).await;
    let key = "SELECT confrelid::regclass FROM pg_constraint WHERE conrelid = 'public.projects'::regclass AND contype = 'f'";
    assert_eq!(world.sql(key).await, "clerk.users");
    assert_eq!(world.tables().await, tables);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_drizzle_kit_pull_makes_compiles_without_the_internal_column_and_reads_rows() {
    let folder = npm(&packages("drizzle"));
    let world = World::new().await;
    create_dir_all(folder.path().join("drizzle")).expect("a folder");
    write(folder.path().join("drizzle.config.ts"), config("./drizzle/schema.ts", "\"clerk\""))
        .expect("a written file");
    let mut pull = world.command(folder.path(), "sh");
    pull.args(["-eu", "-c", &PAGE.block("pull.sh")]);
    output("drizzle-kit pull", pull).await;
    let pulled = read_to_string(folder.path().join("drizzle/schema.ts")).expect("the models");
    assert!(!pulled.contains("unknown("), "{pulled}");
    let tables =
        ["usersInClerk", "organizationMembershipsInClerk", "changesInClerk", "currentMembersInClerk"];
    write(folder.path().join("all.ts"), reads("./drizzle/schema", tables.map(str::to_owned).into_iter()))
        .expect("a written file");
    let said = compiled_and_run(&world, folder.path(), "all.ts").await;
    assert_eq!(
        said,
        "usersInClerk 1\norganizationMembershipsInClerk 2\nchangesInClerk 4\ncurrentMembersInClerk 2\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drizzle_kit_can_drop_the_tables_as_their_owner_and_not_as_the_role_of_the_page() {
    let folder = npm(&packages("drizzle"));
    let world = World::new().await;
    let mine = "import { pgTable, serial } from \"drizzle-orm/pg-core\";\n\
                export const projects = pgTable(\"projects\", { id: serial().primaryKey() });\n";
    write(folder.path().join("mine.ts"), mine).expect("a written file");
    let path = folder.path().join("drizzle.config.ts");
    let push = || tool(&world, folder.path(), "drizzle-kit", &["push", "--force"]);
    // Without a table to make, drizzle-kit asks nothing.
    write(&path, config("./mine.ts", "\"public\"")).expect("a written file");
    output("drizzle-kit push", push()).await;
    write(&path, config("./mine.ts", "\"public\", \"clerk\"")).expect("a written file");
    let tables = world.tables().await;
    // drizzle-kit exits with 0 after an error.
    let said = said("drizzle-kit push", push()).await;
    assert!(said.contains("must be owner of"), "{said}");
    assert_eq!(world.tables().await, tables);
    let mut as_owner = push();
    as_owner.env("DATABASE_URL", world.owner());
    output("drizzle-kit push", as_owner).await;
    assert_eq!(world.tables().await, "0");
}
