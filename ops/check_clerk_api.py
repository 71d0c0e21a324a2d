"""Validates answers of the simulated Clerk API against Clerk's specification. See check-clerk-api."""

import json
import sys
import urllib.error
import urllib.request
from collections import Counter

import jsonschema
import yaml

specification_path, url, key, instance = sys.argv[1:]

# Differences from the specification that Clerk itself has.
KNOWN = {
    "null metadata": lambda path, error: path[-1:] and path[-1].endswith("_metadata") and error.instance is None,
    "organization without a slug": lambda path, error: path[-1:] == ["slug"] and error.instance is None,
}

ENDPOINTS = {
    "/instance": None,
    "/users": "/users/{user_id}",
    "/users/count": None,
    "/organizations": "/organizations/{organization_id}",
    "/organizations/{organization_id}/memberships": None,
    "/organization_memberships": None,
    "/organization_invitations": "/organizations/{organization_id}/invitations/{invitation_id}",
    "/organizations/{organization_id}/invitations": None,
    "/organization_domains": None,
    "/organizations/{organization_id}/domains": None,
    "/organization_roles": "/organization_roles/{organization_role_id}",
    "/organization_permissions": "/organization_permissions/{permission_id}",
    "/waitlist_entries": None,
    "/billing/subscription_items": None,
}
# The synthetic instance has objects of these kinds only, and too many organizations to visit each.
SYNTHETIC = ["/instance", "/users", "/users/count", "/organizations", "/organization_memberships"]
if instance == "synthetic":
    ENDPOINTS = {template: ENDPOINTS[template] for template in SYNTHETIC}
ERRORS = {
    401: ("/users", "Bearer sk_test_wrong"),
    404: ("/users/user_unknown", None),
    422: ("/users?limit=0", None),
}

with open(specification_path, encoding="utf-8") as file:
    specification = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def json_schema(node):
    """Turns OpenAPI 3.0's `nullable` into JSON Schema."""
    if isinstance(node, list):
        return [json_schema(one) for one in node]
    if not isinstance(node, dict):
        return node
    node = {name: json_schema(value) for name, value in node.items()}
    if node.pop("nullable", None) is True:
        return {"anyOf": [node, {"type": "null"}]}
    return node


components = json_schema(specification["components"])


def resolved(node):
    while "$ref" in node:
        found = specification
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def validator(path, status):
    answer = resolved(specification["paths"][path]["get"]["responses"][status])
    schema = json_schema(answer["content"]["application/json"]["schema"])
    return jsonschema.Draft4Validator({**schema, "components": components})


def get(path, authorization=None):
    headers = {"Authorization": authorization or f"Bearer {key}", "Clerk-API-Version": "2026-05-12"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, headers=headers)) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


failures, known, checked = Counter(), Counter(), 0


def leaves(error):
    """Returns the errors inside an error about several schemas, without those about the null of `nullable`."""
    inner = [leaf for one in error.context for leaf in leaves(one) if leaf.validator_value != "null"]
    return inner or [error]


def check(template, status, body):
    global checked
    checked += 1
    for error in [leaf for error in validator(template, status).iter_errors(body) for leaf in leaves(error)]:
        path = [str(part) for part in error.absolute_path]
        reason = next((name for name, is_known in KNOWN.items() if is_known(path, error)), None)
        if reason:
            known[reason] += 1
        else:
            place = "/".join("*" if part.isdigit() else part for part in path)
            failures[f"{template} {status} {place}: {error.message[:120]}"] += 1


def objects(body):
    return body["data"] if isinstance(body, dict) else body


_, organizations = get("/organizations?limit=500")
for template, one in ENDPOINTS.items():
    if "{organization_id}" in template:
        paths = [template.replace("{organization_id}", each["id"]) for each in objects(organizations)]
    else:
        paths = [template]
    found = 0
    for path in paths:
        parameters = "" if template in ("/instance", "/users/count") else "?limit=500"
        if template == "/billing/subscription_items":
            parameters += "&include_free=true"
        status, body = get(path + parameters)
        assert status == 200, f"{path} answered {status}"
        check(template, "200", body)
        if parameters:
            found += len(objects(body))
        if one:
            for each in objects(body)[:50]:
                organization = each.get("organization_id", each["id"])
                path = one.replace("{organization_id}", organization)
                path = "/".join(each["id"] if part.startswith("{") else part for part in path.split("/"))
                status, body_of_one = get(path)
                assert status == 200, f"{one} answered {status}"
                check(one, "200", body_of_one)
    if found == 0 and template not in ("/instance", "/users/count"):
        failures[f"{template}: no object to check"] += 1

errors = jsonschema.Draft4Validator(
    {"$ref": "#/components/schemas/ClerkErrors", "components": components}
)
for expected, (path, authorization) in ERRORS.items():
    status, body = get(path, authorization)
    checked += 1
    if status != expected or list(errors.iter_errors(body)):
        failures[f"{path}: {status} in place of {expected}, or not in the form of errors"] += 1

for failure, count in sorted(failures.items()):
    print(f"check-clerk-api: {instance}: {count} × {failure}")
for reason, count in sorted(known.items()):
    print(f"check-clerk-api: {instance}: tolerated, because Clerk sends it too: {count} × {reason}")
if failures:
    sys.exit(1)
print(f"check-clerk-api: {instance}: {checked} answers of {len(ENDPOINTS)} paths and their objects agree with the specification")
