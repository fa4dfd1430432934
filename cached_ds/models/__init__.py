"""Models: what is known of Hugging Face's encoder-decoders.

A family is data (`families`): how its tokenizer frames a document, and the names of its layers and attentions. `shapes`
makes models without pretrained weights, of several `sizes`; `class_swap` gives a module instance a subclass of its own
class, and back.
"""
