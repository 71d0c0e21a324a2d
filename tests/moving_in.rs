//! The steps of `ops/MOVING-IN.md`, in their order, with a real Next.js and Prisma.

use std::fs::{copy, read_to_string, remove_file, write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rollbook_simulator::api::{ApiSettings, ClerkApi, DEFAULT_KEY};
use rollbook_simulator::history::{History, HistorySettings};
use rollbook_simulator::state::{ClerkState, TABLES};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::events::{START, deleted, event, user};
use rollbook_testkit::process::{Home, SECRET, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use serde_json::Value;

use crate::architecture::root;
use crate::blocks::Page;
use crate::crashes::BINARY;
use crate::packages::{Program, finished, next_dev, npm};
use crate::raw_http::{exchange, signed, status};

const PAGE: Page = Page("ops/MOVING-IN.md");
/// Maximum time of a route's first answer, on a busy machine.
const COMPILED_WITHIN: Duration = Duration::from_secs(240);
/// Tables of `prisma/before.prisma` as Prisma makes them, and the role of the application.
const APPLICATION: &str = r#"CREATE ROLE app LOGIN PASSWORD 'ImThePasswordOfTheApp';
    GRANT CREATE ON SCHEMA public TO app; SET ROLE app;
    CREATE TABLE "User" (id serial PRIMARY KEY, "clerkId" text NOT NULL UNIQUE, email text, "firstName" text,
                         plan text NOT NULL DEFAULT 'free');
    CREATE TABLE "Post" (id serial PRIMARY KEY, title text NOT NULL, "authorId" integer NOT NULL REFERENCES "User")"#;

/// Content of a user with this address.
fn person(id: &str, at: i64, address: &str) -> Value {
    let mut person = user(id, at);
    person["email_addresses"][1]["email_address"] = address.into();
    person
}

/// Clerk with only these users.
async fn clerk(users: &[Value]) -> ClerkApi {
    let settings = HistorySettings { users: 6, organizations: 1, changes: 20, ..HistorySettings::default() };
    let mut state: ClerkState = History::generate(&settings).state();
    for table in TABLES {
        for id in state.ids(table) {
            state.remove(table, &id);
        }
    }
    for user in users {
        assert!(state.insert("users", user.as_object().expect("an object").clone()));
    }
    let settings = ApiSettings::new(Arc::new(WallClock));
    ClerkApi::start(Arc::new(Mutex::new(state)), settings).await.expect("a port")
}

/// The application, Rollbook, and the database of both.
struct World {
    postgres: PostgresServer,
    home: Home,
    application: SocketAddr,
    program: Option<Program>,
    folder: tempfile::TempDir,
    sent: u32,
}

impl World {
    async fn new(api: &ClerkApi) -> Self {
        let folder = npm(&root().join("tests/reacting/packages/next"));
        let postgres = PostgresServer::start_with(&[("fsync", "off")]).await;
        postgres.create_database("app").await;
        postgres.psql("app", APPLICATION).await;
        let home = Home::new(BINARY)
            .with("ROLLBOOK_LOG", "warn")
            .with("DATABASE_URL", postgres.url("app"))
            .with("CLERK_API_URL", api.url())
            .with("CLERK_SECRET_KEY", DEFAULT_KEY)
            .with("ROLLBOOK_RECONCILE_EVERY", "off")
            .with("ROLLBOOK_RECONCILE_CHECK_EVERY", "off")
            .with("ROLLBOOK_API_BUDGET", "1");
        let application = home.listen;
        Self { postgres, home, application, program: None, folder, sent: 0 }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    async fn sql(&self, sql: &str) -> String {
        self.postgres.psql("app", sql).await.trim_end().to_owned()
    }

    /// Writes the model, makes the client, and starts the application anew.
    async fn deploy(&mut self, schema: &str) {
        self.program = None;
        write(self.path().join("prisma/schema.prisma"), schema).expect("a written file");
        let url = format!("postgres://app:ImThePasswordOfTheApp@127.0.0.1:{}/app", self.postgres.port());
        let mut generate = Command::new(self.path().join("node_modules/.bin/prisma"));
        // The command does not run this program, and fetches it where none is named.
        generate.env("PRISMA_SCHEMA_ENGINE_BINARY", "/bin/true").env("DATABASE_URL", &url);
        generate.arg("generate").current_dir(self.path());
        finished("prisma generate", generate.output());
        let environment = [("DATABASE_URL", &*url), ("CLERK_WEBHOOK_SIGNING_SECRET", SECRET)];
        let (program, address) = next_dev(self.path(), &environment).await;
        (self.program, self.application) = (Some(program), address);
    }

    /// Asks the application until it answers: a route is compiled at its first request, which may take long.
    async fn ask(&self, request: &str) -> String {
        let answered = async {
            loop {
                let asked = exchange(self.application, request);
                if let Ok(answer) = tokio::time::timeout(Duration::from_secs(14), asked).await {
                    return answer;
                }
            }
        };
        let log = || self.program.as_ref().map(Program::log).unwrap_or_default();
        let first = request.lines().next().unwrap_or_default();
        tokio::time::timeout(COMPILED_WITHIN, answered).await.unwrap_or_else(|_| panic!("{first}: {}", log()))
    }

    async fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")).await
    }

    /// Sends an event to the route, to Rollbook, or to both, as Clerk does with two endpoints.
    async fn send(&mut self, to_the_route: bool, to_rollbook: bool, kind: &str, at: i64, data: &Value) {
        self.sent += 1;
        let request = signed(&format!("msg_{}", self.sent), &event(kind, at, data).to_string());
        if to_the_route {
            let request = request.replace("/webhooks/clerk", "/api/webhooks/clerk");
            let request = request.replace("host: test\r\n", "host: test\r\nconnection: close\r\n");
            assert_eq!(status(&self.ask(&request).await), 204, "{kind}");
        }
        if to_rollbook {
            assert_eq!(status(&exchange(self.home.listen, &request).await), 200, "{kind}");
            until("it is applied", || async { self.home.metric("rollbook_queue_depth").await == Some(0.0) })
                .await;
        }
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = tokio::task::block_in_place(|| self.home.command(arguments).output());
        String::from_utf8_lossy(&finished(&format!("{arguments:?}"), output).stdout).into_owned()
    }

    /// The application as it was before Rollbook.
    async fn before(&mut self) {
        for block in ["lib/prisma.ts", "app/api/webhooks/clerk/route.ts", "app/api/users/[id]/route.ts"] {
            PAGE.write_block(self.path(), block);
        }
        std::fs::create_dir_all(self.path().join("prisma")).expect("a folder");
        let config = root().join("ops/integrations/prisma/prisma.config.ts");
        copy(config, self.path().join("prisma.config.ts")).expect("a copied file");
        self.deploy(&PAGE.block("prisma/before.prisma")).await;
    }
}

#[test]
fn every_block_of_the_page_is_run_by_a_test() {
    PAGE.assert_every_block_is_run(&["tests/moving_in.rs"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_with_a_webhook_route_moves_in_step_by_step() {
    let (first, second, unheard) = (
        person("user_1", START, "first@example.com"),
        person("user_2", START + 5, "renamed@example.com"),
        person("user_4", START, "fourth@example.com"),
    );
    let api = clerk(&[first.clone(), second.clone(), unheard]).await;
    let mut world = World::new(&api).await;
    world.before().await;

    // 1 and 2: both get events; some reach one of them only, or arrive late; then the backfill.
    world.home.migrate();
    world.sql(&PAGE.block("rights.sql")).await;
    let serve = world.home.start_ready(&["serve"]).await;
    world.send(true, true, "user.created", START, &first).await;
    world.send(true, true, "user.created", START, &person("user_2", START, "second@example.com")).await;
    world.send(false, true, "user.updated", START + 5, &second).await;
    let third = person("user_3", START, "third@example.com");
    world.send(true, true, "user.created", START, &third).await;
    world.send(true, true, "user.deleted", START + 9, &deleted("user", "user_3")).await;
    world.send(true, true, "user.updated", START + 3, &third).await;
    world.sql(r#"INSERT INTO "User" ("clerkId") VALUES ('user_test')"#).await;
    world.run(&["reconcile"]);
    world.run(&["ready"]);

    // 3: each difference has its name.
    let compared = world.sql(&PAGE.block("compare.sql")).await;
    assert_eq!(
        compared,
        "user_2|differs\nuser_3|deleted at Clerk\nuser_4|missing in User\nuser_test|not known to Clerk"
    );
    assert!(world.get("/api/users/user_2").await.contains("second@example.com"), "the route missed it");
    assert_eq!(status(&world.get("/api/users/user_3").await), 200, "the route revived it");
    world.sql(r#"DELETE FROM "User" WHERE "clerkId" IN ('user_3', 'user_test')"#).await;

    references(&mut world).await;
    reads(&mut world).await;

    // 7: the route is gone.
    remove_file(world.path().join("app/api/webhooks/clerk/route.ts")).expect("the route");
    let after = PAGE.block("prisma/after.prisma");
    let kept = |line: &&str| !line.contains("email ") && !line.contains("firstName ");
    let last: Vec<&str> = after.lines().filter(kept).collect();
    assert_eq!(after.lines().count() - last.len(), 2);
    world.deploy(&last.join("\n")).await;
    world.sql(&PAGE.block("columns.sql")).await;
    assert_eq!(status(&post(&world, "user_1").await), 201);
    assert!(world.get("/api/users/user_5").await.contains("fifth@example.com"));
    drop(serve);
}

async fn post(world: &World, id: &str) -> String {
    let body = format!(r#"{{"userId":"{id}","title":"Hello"}}"#);
    let length = body.len();
    world
        .ask(&format!(
            "POST /api/posts HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        ))
        .await
}

/// Step 4: the application makes rows that refer to Clerk's users.
async fn references(world: &mut World) {
    for block in ["lib/user.ts", "app/api/posts/route.ts"] {
        PAGE.write_block(world.path(), block);
    }
    let path = world.path().join("app/api/webhooks/clerk/route.ts");
    let route = read_to_string(&path).expect("the route");
    let upsert = "    await prisma.user.upsert";
    let with_line = route.replace(upsert, &format!("{}{upsert}", PAGE.block("line.ts")));
    assert_ne!(route, with_line);
    write(path, with_line).expect("a written file");
    world.deploy(&PAGE.block("prisma/before.prisma")).await;
    world.sql(&format!("SET ROLE app; {}", PAGE.block("key.sql"))).await;
    // A user who has just signed up: neither endpoint has heard of it.
    assert_eq!(status(&post(world, "user_5").await), 201);
    let rows = r#"SELECT synced_by, plan, title FROM clerk.users JOIN "User" ON "clerkId" = users.id
                  JOIN "Post" ON "authorId" = "User".id WHERE users.id = 'user_5'"#;
    assert_eq!(world.sql(rows).await, "ensure_user|free|Hello");
    // The route comes first here, and Rollbook fills the place later.
    world.send(true, false, "user.created", START, &person("user_6", START, "sixth@example.com")).await;
    world.send(true, true, "user.created", START, &person("user_5", START, "fifth@example.com")).await;
}

/// Step 5: the application reads Rollbook's rows.
async fn reads(world: &mut World) {
    let models =
        read_to_string(root().join("ops/integrations/prisma/clerk.prisma")).expect("the ready models");
    let related = models.replacen("model ClerkUser {\n", "model ClerkUser {\n  user User?\n", 1);
    assert_ne!(models, related);
    write(world.path().join("prisma/clerk.prisma"), related).expect("a written file");
    PAGE.write_block_as(world.path(), "app/api/users/[id]/after.ts", "app/api/users/[id]/route.ts");
    world.deploy(&PAGE.block("prisma/after.prisma")).await;
    for (id, address) in
        [("user_1", "first@"), ("user_2", "renamed@"), ("user_4", "fourth@"), ("user_5", "fifth@")]
    {
        let answer = world.get(&format!("/api/users/{id}")).await;
        assert!(answer.contains(address) && answer.contains("\"plan\":\"free\""), "{answer}");
    }
    assert_eq!(status(&world.get("/api/users/user_3").await), 404, "it is deleted");
}
