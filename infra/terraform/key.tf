# Encrypts buckets, database and volumes at rest.
resource "aws_kms_key" "this" {
  description             = "keyanon: buckets, database, volumes"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = data.aws_iam_policy_document.key.json
}

data "aws_iam_policy_document" "key" {
  statement {
    sid       = "AccountByItsPolicies"
    actions   = ["kms:*"]
    resources = ["*"]
    principals {
      type        = "AWS"
      identifiers = ["arn:aws:iam::${data.aws_caller_identity.this.account_id}:root"]
    }
  }
}

resource "aws_kms_alias" "this" {
  name          = "alias/${var.name}"
  target_key_id = aws_kms_key.this.key_id
}

# The keystore's key-encryption key. It wraps epoch keys and is asked for by what they are for, so that ingest is given what it needs and
# can not open a record that is stored. Nothing may be rotated or deleted by chance: without it no face comes back.
resource "aws_kms_key" "kek" {
  description             = "keyanon: key-encryption key of the keystore"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = data.aws_iam_policy_document.key.json
  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_kms_alias" "kek" {
  name          = "alias/${var.name}-kek"
  target_key_id = aws_kms_key.kek.key_id
}

resource "aws_iam_role_policy" "kek" {
  for_each = toset(["ingest", "keystore"])
  name     = "kek"
  role     = aws_iam_role.this[each.key].id
  policy   = templatefile("${path.module}/policies/kek-${each.key}.json", { key = aws_kms_key.kek.arn })
}
