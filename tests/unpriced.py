"""Networks that only somebody else's prices can plan: operators and sizes that nobody knows."""

CHAIN = """<ir_version: 10, opset_import: ["" : 17, "acme" : 1]>
g (float[n, m, k] x) => (float[q] y)
<float[2] w = {1.0, 2.0}>
{
  a = acme.Magic(x, w)
  b = acme.Magic(a)
  y = acme.Magic(b, w)
}
"""
NAMES = """<ir_version: 10, opset_import: ["" : 17, "acme" : 1]>
g (float[4] x, float[4] idle, bool c) => (float[4] y, float[4] mask, float[4] fixed)
<float[4] w = {1.0, 2.0, 3.0, 4.0}>
{
  k = Neg(w)
  fixed = Abs(k)
  a, unread = acme.Two(x, k)
  y = If(c) <
    then_branch = g1 () => (float[4] p) { p = Add(a, w) },
    else_branch = g2 () => (float[4] q) { s = Sub(a, k)  q = Relu(s) }
  >
  mask = Neg(a)
}
"""
