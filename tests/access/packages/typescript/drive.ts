// Runs the functions of the page with the tokens of the test, and prints what each came to.
import { deleteTask, getFullOrgContext, Refused, type Task } from "./tasks.js";

const tokens = JSON.parse(process.env.TOKENS ?? "{}") as Record<string, string>;

async function outcome(work: () => Promise<unknown>): Promise<unknown> {
  try {
    return (await work()) ?? "done";
  } catch (error) {
    if (error instanceof Refused) return error.status;
    throw error;
  }
}

const found: Record<string, unknown> = {};
for (const [name, token] of Object.entries(tokens)) {
  const tasks = new Map<string, Task>([
    ["mine", { id: "mine", organizationId: "org_1" }],
    ["theirs", { id: "theirs", organizationId: "org_2" }],
  ]);
  found[name] = {
    context: await outcome(() => getFullOrgContext(token)),
    mine: await outcome(() => deleteTask(token, "mine", tasks)),
    theirs: await outcome(() => deleteTask(token, "theirs", tasks)),
    unknown: await outcome(() => deleteTask(token, "unknown", tasks)),
    left: [...tasks.keys()],
  };
}
console.log(JSON.stringify(found));
