// The page's elements: look one up, make one.

export const at = (id) => document.getElementById(id);

/** A new element with these properties and children. */
export function element(tag, properties = {}, ...children) {
  const created = Object.assign(document.createElement(tag), properties);
  created.append(...children);
  return created;
}
