// Files of the repository are not part of the book: links to them become text.
const book = new URL(`${path_to_root}./`, document.baseURI).href;
for (const link of document.querySelectorAll("main a[href]")) {
    if (link.origin === location.origin && !link.href.startsWith(book)) {
        link.replaceWith(...link.childNodes);
    }
}
